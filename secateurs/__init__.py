"""The Python interface of Secateurs: ``import secateurs``.

    pruned = secateurs.prune(model, inputs, labels, method="spectral", speedup=2)
    pruned.model, pruned.achieved, pruned.layers, pruned.left_alone
    frame = secateurs.records("results")
    records = secateurs.run(["method=spectral,dpp", "seed=0,1"])

Nothing is imported before it is used. The page with examples is ``docs/python.md``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.records.schema import Record
    from methods.allocation import Allocation
    from methods.budgets.budget import Budget
    from methods.compensation import Compensation
    from methods.errors import BadInput, Collapsed, Skipped
    from methods.layers.seen import EdgeLayer, NodeLayer
    from methods.layers.statistics import Calibration
    from methods.pruner import Pruner
    from methods.schedule import Iterative, Schedule
    from methods.selection import Selection
    from secateurs.pruning import prune
    from secateurs.result import PrunedNetwork, load
    from secateurs.tables import records, run

__version__ = "0.1.0"
_HOMES = {
    "Allocation": "methods.allocation",
    "BadInput": "methods.errors",
    "Budget": "methods.budgets.budget",
    "Calibration": "methods.layers.statistics",
    "Collapsed": "methods.errors",
    "Compensation": "methods.compensation",
    "EdgeLayer": "methods.layers.seen",
    "Iterative": "methods.schedule",
    "NodeLayer": "methods.layers.seen",
    "PrunedNetwork": "secateurs.result",
    "Pruner": "methods.pruner",
    "Record": "benchmarks.records.schema",
    "Schedule": "methods.schedule",
    "Selection": "methods.selection",
    "Skipped": "methods.errors",
    "load": "secateurs.result",
    "prune": "secateurs.pruning",
    "records": "secateurs.tables",
    "run": "secateurs.tables",
}

__all__ = [
    "Allocation",
    "BadInput",
    "Budget",
    "Calibration",
    "Collapsed",
    "Compensation",
    "EdgeLayer",
    "Iterative",
    "NodeLayer",
    "PrunedNetwork",
    "Pruner",
    "Record",
    "Schedule",
    "Selection",
    "Skipped",
    "load",
    "prune",
    "records",
    "run",
]


def _find_own_rooms() -> None:
    """Put our packages first in ``sys.path``, before the user's folders of the same names.

    Raises:
        ImportError: a package of the user's with one of these names was imported already.
    """
    home = Path(__file__).resolve().parents[1]
    for room in ("methods", "benchmarks"):
        theirs = sys.modules.get(room)
        found = getattr(theirs, "__spec__", None) or importlib.util.find_spec(room)
        if found is not None and found.origin and Path(found.origin).resolve().parent == home / room:
            continue
        if theirs is not None:
            raise ImportError(
                f"secateurs has a package {room}, but another one of that name was imported before it "
                f"({getattr(found, 'origin', None)}); rename yours, or import secateurs first"
            )
        spec = importlib.util.spec_from_file_location(
            room, home / room / "__init__.py", submodule_search_locations=[str(home / room)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[room] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[room])


_find_own_rooms()


from methods.door import door  # noqa: E402 (from the package that has just been found)

__getattr__, __dir__ = door(__name__, _HOMES)
