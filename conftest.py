"""What the tests of the core and of every plugin share: how hypothesis searches, and that no secret is known at first.

``ci`` (chosen when ``CI`` is set): the same examples on every machine, and the first failing one as it is, since
shrinking may take longer than the time-out of a test and would then hide the cause.
``dev`` (otherwise): new examples each time, a failing one shrunk. ``--hypothesis-profile=NAME`` chooses another.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from esper_core import masking

# No deadline for one example: a loaded machine may take any time. No health check on slow generation, likewise.
_COMMON = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_FIND = (Phase.explicit, Phase.reuse, Phase.generate)

settings.register_profile("ci", _COMMON, derandomize=True, database=None, phases=_FIND, print_blob=True)
settings.register_profile("dev", _COMMON, phases=(*_FIND, Phase.shrink))
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masking knows a process's secrets for as long as it runs; each test begins as a process does."""
    monkeypatch.setattr(masking, "_known", frozenset())
    monkeypatch.setattr(masking, "_pattern", None)
