"""Write the Prometheus rules and the Grafana dashboard from Esper's own limits.

``python collector-config/generate.py`` writes; ``--check`` fails when a file is not what would be written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import dashboard
import rule_tests
import rules

HERE = Path(__file__).parent


def outputs() -> dict[Path, str]:
    """Every generated file and its text."""
    return {
        HERE / "prometheus" / "esper.rules.yml": rules.rules(),
        HERE / "prometheus" / "esper.rules.test.yml": rule_tests.rule_tests(),
        HERE / "grafana" / "esper-ppo.json": dashboard.dashboard(),
    }


def main() -> int:
    """Write, or compare with ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a file differs from what would be written")
    check = parser.parse_args().check
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            print(f"{path.relative_to(HERE.parent)} is out of date: run python collector-config/generate.py")
        return 1 if stale else 0
    for path in stale:
        path.write_text(outputs()[path])
        print(f"wrote {path.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
