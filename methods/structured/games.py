"""Shapley and Banzhaf values: a node's average contribution when it joins random sets of the other nodes.

Ancona, Oztireli and Gross, "Shapley Value as Principled Metric for Structured Network Pruning" (arXiv 2006.01795). The
nodes of one layer are the players of a game; v(S) is minus the mean loss of the network in which the nodes outside S
are masked. With N all m nodes,

    Shapley  phi_j = mean over orders of N of  v(what comes before j, and j) - v(what comes before j)
    Banzhaf  beta_j = mean over subsets S of N without j of  v(S and j) - v(S)

Shapley values add up to v(N) - v(nothing), and so does each sampled order's estimate. Orders are drawn at random, each
with samples of its own (Castro, Gomez and Tejada, Computers & Operations Research 2009): m + 1 forward passes. Banzhaf
values take each draw for all players at once (Wang and Jia, AISTATS 2023): S has every node with probability 1/2, its
complement is drawn with it, and beta_j is the mean over pairs of v(the one with j) - v(the one without).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.gradients import sample_losses
from methods.layers.seen import NodeLayer
from methods.network.graph import gated
from methods.network.reading import evaluating
from methods.progress import track
from methods.selection import Selection

Value = Callable[[Tensor], float]  # of a coalition, a boolean mask (m,)


def shapley(value: Value, order: Tensor) -> Tensor:
    """(m,) marginal worth of each player in one order of joining, float64.

    Args:
        value: of the game.
        order: (m,) a permutation of the players.
    """
    worth = torch.zeros(len(order), dtype=torch.float64)
    coalition = torch.zeros(len(order), dtype=torch.bool)
    before = value(coalition)
    for player in order.tolist():
        coalition[player] = True
        after = value(coalition)
        worth[player] = after - before
        before = after
    return worth


def banzhaf(value: Value, coalition: Tensor) -> Tensor:
    """(m,) estimate of every player's Banzhaf value from one coalition and its complement, float64."""
    difference = value(coalition) - value(~coalition)
    return torch.where(coalition, difference, -difference).double()


class GameSelection(Selection[NodeLayer]):
    """Keeps the nodes of the largest sampled value.

    Args:
        value: ``shapley`` or ``banzhaf``.
        draws: orders of all nodes (shapley), or pairs of a set and its complement (banzhaf), per layer.
        batch: samples on which the loss is taken, drawn again for each order or pair.
    """

    additive = True  # differences of the loss

    def __init__(self, value: str = "shapley", draws: int = 5, batch: int = 64) -> None:
        if value not in ("shapley", "banzhaf"):
            raise BadInput(f"selection.value={value} is unknown; choose shapley or banzhaf")
        if draws < 1 or batch < 1:
            raise BadInput(f"selection.draws={draws}, batch={batch}: expected 1 or more of each; type draws=5 batch=64")
        self.value, self.draws, self.batch = value, draws, batch

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) mean estimate, in units of the loss; Shapley values add up to the worth of the whole layer."""
        return layer.once((self.value, layer.name, self.draws, self.batch), lambda: self._estimate(layer))

    def _estimate(self, layer: NodeLayer) -> Tensor:
        total = torch.zeros(layer.size, dtype=torch.float64)
        for _ in track(range(self.draws), f"{self.value} values of {layer.name}"):
            game = self._game(layer)
            if self.value == "shapley":
                total += shapley(game, torch.randperm(layer.size, generator=layer.generator))
            else:
                total += banzhaf(game, torch.rand(layer.size, generator=layer.generator) < 0.5)
        return (total / self.draws).to(layer.incoming.device)

    def _game(self, layer: NodeLayer) -> Value:
        data = layer.calibration
        drawn = torch.randperm(len(data), generator=layer.generator)[: self.batch]
        inputs, labels = data.inputs[drawn.to(data.inputs.device)], data.labels[drawn.to(data.labels.device)]

        @torch.no_grad()
        def value(coalition: Tensor) -> float:
            kept = {layer.name: coalition.nonzero().flatten()}
            with evaluating(layer.model), gated(layer.model, [layer.group], kept):
                return -float(sample_losses(layer.model(inputs), labels).double().mean())

        return value
