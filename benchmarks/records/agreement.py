"""Check whether two results of one cell agree."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records.schema import Metrics, Record

STAGES = ("dense", "pruned", "recalibrated", "tuned")
COUNTS = ("parameters", "nonzero", "macs", "macs_effective")


def first_difference(
    record: Record,
    other: Record,
    accuracy: float = 0.0,
    count: float = 0.0,
    stages: Sequence[str] = STAGES,
    counts: Sequence[str] = COUNTS,
) -> str | None:
    """The first figure in which ``record`` does not repeat the ``other`` result of the same cell, or None.

    Args:
        record: a result.
        other: what it should repeat.
        accuracy: tolerance of accuracies, as fractions.
        count: tolerance of counts, relative to the other's.
        stages: the networks that are compared.
        counts: the counts that are compared.
    """
    if record.status != other.status:
        return f"{record.status}, there {other.status}"
    for stage in stages:
        here, there = (getattr(one.metrics, stage) or Metrics() for one in (record, other))
        ours, theirs = here.accuracy, there.accuracy
        if ours != theirs and (ours is None or theirs is None or abs(ours - theirs) > accuracy):
            return f"{stage} accuracy {ours}, there {theirs}"
        for name in counts:
            mine, known = getattr(here, name), getattr(there, name)
            if (mine is None) != (known is None) or (mine is not None and abs(mine - known) > count * known):
                return f"{stage} {name} {mine}, there {known}"
    return None
