"""Writes every generated file, or checks them: ``python docs/generate [--check]``."""

import sys

from files import main

sys.exit(main())
