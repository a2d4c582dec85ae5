"""What each library calls KL, on one recorded update: the table of docs/explanation/what-others-call-kl.md.

One PPO update of a Gaussian policy with three action dimensions is recorded in float64: 512 steps, 8 epochs of 4
minibatches, the distribution before every optimizer step, and the policy after the last one. Every formula is then
applied to that record, as restated here from the file and version named beside it. Where the library is installed, the
statements of its own source that compute the number are run on the record too, without importing the library, and must
give the same value; so none of them needs what it depends on::

    pip install --no-deps --target LIBS rl-games==1.6.5 skrl==2.1.1 rsl-rl-lib==5.5.1 trl==1.16.0 ray==2.60.0
    PYTHONPATH=LIBS python tests/benchmarks/kl_of_libraries.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
from typing import TYPE_CHECKING

from kl_formulas import esper_sums, truth
from kl_libraries import LIBRARIES
from kl_record import DIMENSIONS, STEPS, record
from kl_statements import own_value

if TYPE_CHECKING:
    from kl_record import Record

__all__ = ["formulas", "measured", "table"]


def measured(of: Record) -> dict[str, float]:
    """Name -> number, ours first."""
    numerators = esper_sums(of)
    found = {
        "exact KL(old ‖ new) after the last step": truth(of),
        "Esper, `kl_joint`": float(numerators.sum() / STEPS),
        "Esper, `kl_divergence`": float(numerators.sum() / (STEPS * DIMENSIONS)),
    }
    return found | {item.name: item.value(of) for item in LIBRARIES if item.value is not None}


def formulas() -> str:
    """The page's table of formulas."""
    rows = [
        f"| {item.name} | {item.version}, `{item.file}` | {f'`{item.logged}`' if item.logged else 'nothing'} "
        f"| {item.formula} | {item.when} |"
        for item in LIBRARIES
    ]
    head = "| library | read in | logged as | formula | taken |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def table(of: Record) -> str:
    """The page's table of numbers."""
    numbers = measured(of)
    rows = [f"| {name} | {value:.5f} | {value / truth(of):.2f} |" for name, value in numbers.items()]
    return "\n".join(["| number | nats | times the truth |", "| --- | ---: | ---: |", *rows])


def main() -> None:
    """Print the table, and what became of each library's own statements."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    of = record()
    print(f"{formulas()}\n\n{table(of)}\n")
    for library in LIBRARIES:
        if library.own is None:
            continue
        try:
            theirs = own_value(library, of)
        except LookupError as error:
            print(f"{library.name}: {error}")
            continue
        if theirs is None:
            print(f"{library.name}: not installed; restated from {library.version}")
            continue
        version = importlib.metadata.version(library.distribution)
        same = abs(theirs - library.own.ours(of)) <= 1e-12
        print(f"{library.name}: {'same' if same else 'DIFFERENT'} by the own code of {version}")


if __name__ == "__main__":
    main()
