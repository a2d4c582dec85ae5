"""``python -m esper_core`` equals ``esper``."""

from __future__ import annotations

import sys

from esper_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
