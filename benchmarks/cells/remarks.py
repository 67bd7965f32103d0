"""Remarks on a cell that ended well but has unusual numbers, in addition to what pruning itself remarks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.records.schema import LEFT_ALONE

GROWTH = 10.0  # of the largest weight
NAMED = 3  # layers in a note


def note_of(note: str | None, left_alone: Mapping[str, str]) -> str | None:
    """The notes of pruning, and the names of the layers that it left alone; None if there is nothing to note."""
    names = list(left_alone)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    alone = f"{LEFT_ALONE}{', '.join(names[:NAMED])}{more}" if names else None
    return "; ".join(filter(None, (note, alone))) or None


def remarks(dense: nn.Module, tuned: nn.Module, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on unusual results; usually there are none.

    Args:
        dense: the network before pruning.
        tuned: the pruned and fine-tuned one.
        metrics: the metrics of the stages ``pruned`` and ``tuned``, each with ``accuracy`` (a fraction) or None there.
    """
    found = []
    before, after = _largest(dense), _largest(tuned)
    if before > 0 and after >= GROWTH * before:
        found.append(f"the largest weight grew from {before:.3g} to {after:.3g}, {after / before:.0f} times")
    first, last = (metrics.get(stage, {}).get("accuracy") for stage in ("pruned", "tuned"))
    if first is not None and last is not None and last < first:
        found.append(f"fine-tuning lowered the accuracy from {first:.4f} to {last:.4f}")
    return found


def _largest(model: nn.Module) -> float:
    """The largest absolute value of any parameter; 0 without parameters."""
    with torch.no_grad():
        return max((float(weight.abs().max()) for weight in model.parameters() if weight.numel()), default=0.0)
