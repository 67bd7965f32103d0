"""Select the latencies that may be compared: those of one kind of machine."""

import json
from collections import Counter
from collections.abc import Sequence

from benchmarks.boards.frame import Row as Cell
from benchmarks.records.fingerprint import SETS_THE_PACE


def latency_columns(cells: Sequence[Cell]) -> list[str]:
    """The columns that hold latency ratios."""
    names = {name for columns in {tuple(cell) for cell in cells} for name in columns}
    return sorted(name for name in names if name.startswith("latency_") and "_b" in name)


def of_one_machine(cells: Sequence[Cell]) -> list[Cell]:
    """Leave out latencies whose fingerprints differ from those of most cells in whatever determines the speed.

    For a cell that lost its latencies, ``elsewhere`` says on which kind of machine they were measured.
    """
    columns = latency_columns(cells)
    timed = Counter(cell["pace"] for cell in cells if any(cell.get(name) is not None for name in columns))
    if len(timed) < 2:
        return list(cells)
    chosen = max(timed, key=lambda pace: (timed[pace], pace))
    return [cell if cell["pace"] in (chosen, None) else _without(cell, columns, chosen) for cell in cells]


def _without(cell: Cell, columns: Sequence[str], chosen: str) -> Cell:
    taken = {name: None for name in columns if cell.get(name) is not None}
    return {**cell, **taken, "elsewhere": _differences(cell["pace"], chosen)} if taken else cell


def _differences(pace: str, chosen: str) -> str:
    """How one kind of machine differs from the other: ``threads 1, not 2``."""
    both = zip(SETS_THE_PACE, json.loads(pace), json.loads(chosen), strict=True)
    return ", ".join(f"{name} {own}, not {other}" for name, own, other in both if own != other)
