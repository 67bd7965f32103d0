"""The steps of an iterative schedule: one row per state of the network, from the dense one to the last.

State t has been pruned t times and trained after each. Its row says how much remains, the accuracy and the loss on the
validation split (right after pruning, before training: ``pruned_accuracy``, ``pruned_loss``), the PQ index (0.5, 1) and
the Gini index of all its live weights, and what the method reports of every layer in the pruning that led to it
(sparsity and effective counts before that pruning, bound and error of what it removed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from benchmarks.data.splits import Data
from benchmarks.training.scoring import Score, evaluate
from methods.network.sparsity import network_sparsity
from methods.pruned import Pruned


@dataclass
class States:
    """The rows of one cell, filled while it runs; none for a schedule of a single step.

    Attributes:
        data: scored on its validation split.
        dense: state 0.
        rows: one per state so far.
    """

    data: Data
    dense: nn.Module
    rows: list[dict[str, Any]] = field(default_factory=list)

    def score(self, network: nn.Module) -> Score:
        """The score of a network on the validation split."""
        return evaluate(network, self.data.validation)

    def add(self, network: nn.Module, masks: Mapping[str, Tensor], pruned: Score) -> None:
        """The next state, after training; ``pruned`` is its score before."""
        if not self.rows:
            self.rows.append(self._row(self.dense, {}) | {"keep": 1.0, "compression": 1.0, "speedup": 1.0})
        self.rows.append(self._row(network, masks) | {"pruned_accuracy": pruned.accuracy, "pruned_loss": pruned.loss})

    def finished(self, pruned: Pruned, before_tuning: nn.Module) -> list[dict[str, Any]]:
        """All rows, with the budgets and layers of the prunings; ``pruned`` is the last state, trained."""
        if not self.rows:
            return []
        self.add(pruned.model, pruned.masks, self.score(before_tuning))
        sparsity = {"pq_index", "gini"}  # of the state before the pruning, which has them in its own row
        for row, step in zip(self.rows[1:], pruned.steps, strict=True):
            row |= {name: value for name, value in step.items() if name not in sparsity}
        return self.rows

    def _row(self, network: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Any]:
        score = self.score(network)
        sparsity = network_sparsity(dict(network.named_parameters()), masks)
        return {"step": len(self.rows), "accuracy": score.accuracy, "loss": score.loss, **sparsity}
