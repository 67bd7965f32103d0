"""Measure what each method costs: processor time of pruning half of ResNet-20 once, with 1,000 samples and one thread.

python -m benchmarks.cost               measure all methods, each in its own process; half an hour
python -m benchmarks.cost chip osscar   only these; the others' figures stay
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.settings.home import CONF
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.cost``."""
    parser = Parser(prog="python -m benchmarks.cost", description="Measure what pruning ResNet-20 costs, by method.")
    parser.add_argument("names", nargs="*", metavar="METHOD", help="these methods; all where none is named")
    chosen = parser.parse_args(arguments)
    from benchmarks.cards.costs import FILE, keep, measure
    from benchmarks.cards.preset import method_names

    known = method_names()
    if unknown := [name for name in chosen.names if name not in known]:
        raise BadInput(f"unknown method '{unknown[0]}'; choose from {', '.join(known)}")
    if CONF != REPOSITORY / "conf":
        raise BadInput("the figures are those of a clone with its own conf/: type it in one, without SECATEURS_CONF")
    for name in chosen.names or known:
        cost = measure(name)
        keep({name: cost})
        sys.stdout.write(f"{name}: {cost.told()}\n")
        sys.stdout.flush()
    sys.stdout.write(f"written: {FILE.relative_to(REPOSITORY)}; then type python -m benchmarks.methods\n")
    return 0


if __name__ == "__main__":
    end(main)
