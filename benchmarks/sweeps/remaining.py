"""Estimate how long the missing cells will take from the times of similar cells."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.records.kept import Known
from benchmarks.records.manifest import PlannedCell
from benchmarks.records.schema import Record


def seconds_left(records: Sequence[Record | Known], missing: Iterable[PlannedCell], workers: int = 1) -> float | None:
    """Seconds of training and pruning until all ``missing`` cells are done by ``workers`` that share them evenly.

    Each cell is taken to cost the median of the cells that are most like it: same data set, model and method, else
    same data set and model, else same data set, else all. A dense network is counted once for each data set, model and
    seed for which no cell has a result yet. None where there is no result at all to judge by.
    """
    costs: dict[tuple[str, ...], list[float]] = defaultdict(list)
    dense: dict[tuple[str, ...], list[float]] = defaultdict(list)
    trained = set()
    for record in records:
        trained.add((record.dataset, record.model, record.seed))
        cost, names = record.cost, (record.dataset, record.model, record.method)
        for length in range(4):
            if cost.prune_seconds is not None or cost.tune_seconds is not None:
                costs[names[:length]].append((cost.prune_seconds or 0.0) + (cost.tune_seconds or 0.0))
            if cost.dense_seconds is not None and length < 3:
                dense[names[:length]].append(cost.dense_seconds)
    if not costs:
        return None
    total = 0.0
    for cell in missing:
        names = (cell.dataset, cell.model, cell.method)
        total += _closest(costs, names)
        if (network := (cell.dataset, cell.model, cell.seed)) not in trained:
            trained.add(network)
            total += _closest(dense, names[:2])
    return total / max(workers, 1)


def _closest(samples: dict[tuple[str, ...], list[float]], names: tuple[str, ...]) -> float:
    for length in range(len(names), -1, -1):
        if found := samples.get(names[:length]):
            return median(found)
    return 0.0


def duration(seconds: float) -> str:
    """Format a duration: ``42 s``, ``7 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
