"""Choose residual blocks to remove: by how much they change, by the loss, or by simpler rules.

Gromov, Tirumala, Shapourian, Glorioso and Roberts, "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv
2403.17887; ICLR 2025), leave out the layers of a language model that rotate their input least. Scores of a block:

- ``angular``: (1 / pi) arccos of the cosine between what a block reads and what it returns, the mean over samples;
  theirs (section 3.2) for one layer at a time. They take the last token, here all positions are one vector.
- ``influence``: 1 - the mean over samples and positions of the cosine between the channels before and behind. Men et
  al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (arXiv 2403.03853), their "block
  influence".
- ``loss``: how much the loss on the calibration samples rises without the block.
- ``magnitude``: the mean absolute weight of the block, and ``random``: controls.

Blocks are removed in ascending order of their scores, one at a time. With ``anew`` the scores of the remaining blocks
are measured again after each removal (greedy), which does not change ``magnitude`` and ``random``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Budget, Cost
from methods.budgets.meeting import shortfall
from methods.depth.blocks import Block, cost_without, left_out, residual_blocks
from methods.errors import BadInput, Unreachable
from methods.layers.gradients import sample_losses
from methods.layers.seen import Layer
from methods.layers.statistics import Calibration
from methods.network.reading import evaluating
from methods.progress import track
from methods.seeds import stream
from methods.selection import Selection

SCORES = ("angular", "influence", "loss", "magnitude", "random")


class BlockSelection(Selection[Layer]):
    """Removes whole residual blocks until the budget is met.

    Args:
        score: what a block is worth; ``angular``, ``influence``, ``loss``, ``magnitude`` or ``random``.
        anew: measure the scores again after each removal.
    """

    unit = "block"

    def __init__(self, score: str = "angular", anew: bool = True) -> None:
        if score not in SCORES:
            raise BadInput(f"selection.score={score} is unknown; choose from {', '.join(SCORES)}")
        self.score, self.anew = score, anew

    def dense_cost(self, model: nn.Module, example: Tensor) -> Cost:
        """Blocks that can be left out, parameters and MACs."""
        return cost_without(model, example[:2], residual_blocks(model, example[:2]), [])

    def restructure(
        self, model: nn.Module, calibration: Calibration, budget: Budget, dense: Cost | None = None
    ) -> tuple[nn.Module, Cost, list[dict[str, Any]], str | None]:
        """Return a new network without some blocks that costs at most what ``budget`` allows, and little less.

        Args:
            model: left as it is.
            calibration: samples for the scores.
            budget: for the whole model; ``keep`` is the fraction of blocks.
            dense: cost that the budget is relative to; by default that of ``model``.

        Raises:
            Unreachable: the network costs more even without all of its blocks.
        """
        model, example = copy.deepcopy(model), calibration.inputs[:2]
        blocks = residual_blocks(model, example)
        dense = dense or cost_without(model, example, blocks, [])
        limit = budget.remaining * dense.of(budget.kind) * (1 + budget.tolerance)

        def fits(removed: Sequence[Block]) -> bool:
            return cost_without(model, example, blocks, removed).of(budget.kind) <= limit

        if not fits(blocks):
            reach = cost_without(model, example, blocks, blocks).achieved(dense)[budget.kind]
            raise Unreachable(
                f"budget.{budget.kind}={budget.value:g} cannot be reached: without all {len(blocks)} blocks the "
                f"network has {budget.kind}={reach:.3g}; ask for {'more' if budget.kind == 'keep' else 'less'}"
            )
        removed, scores = self._removed(model, blocks, calibration, fits)
        cost = cost_without(model, example, blocks, removed)
        for block in removed:
            model.set_submodule(block.path, nn.Identity())
        gone = {block.path for block in removed}
        row: dict[str, Any] = {"name": "blocks", "units": len(blocks), "kept": len(blocks) - len(removed)}
        row |= {"removed": [block.path for block in blocks if block.path in gone], "scores": scores}
        return model, cost, [row], shortfall(budget, cost, dense, "whole blocks")

    def _removed(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        calibration: Calibration,
        fits: Callable[[Sequence[Block]], bool],
    ) -> tuple[list[Block], dict[str, float]]:
        """Return the removed blocks, and each block's score: when it was removed, or at the end."""
        removed: list[Block] = []
        scores = self.scores_of(model, blocks, calibration)
        while not fits(removed):
            left = [block for block in blocks if block not in removed]
            removed.append(min(left, key=lambda block: scores[block.path]))
            if self.anew and not fits(removed) and self.score not in ("magnitude", "random"):
                left.remove(removed[-1])
                with left_out(model, [block.path for block in removed]) as smaller:
                    scores |= self.scores_of(smaller, left, calibration)
        for block in sorted(removed, key=lambda block: -scores[block.path]):  # one removal may have been unnecessary
            without = [other for other in removed if other is not block]
            if fits(without):
                removed = without
        return removed, scores

    @torch.no_grad()
    def scores_of(self, model: nn.Module, blocks: Sequence[Block], calibration: Calibration) -> dict[str, float]:
        """Return each block's score in ``model`` by path; blocks with larger scores are kept."""
        if self.score == "random":
            draw = stream(calibration.seed, "blocks")
            return {block.path: float(torch.rand((), generator=draw)) for block in blocks}
        if self.score == "magnitude":
            return {block.path: _mean_weight(model.get_submodule(block.path)) for block in blocks}
        if self.score == "loss":
            found = {}
            for block in track(blocks, "loss without each block", len(blocks)):
                with left_out(model, [block.path]) as smaller:
                    found[block.path] = _mean_loss(smaller, calibration)
            return found
        return _changes(model, [block.path for block in blocks], calibration, self.score == "angular")


def _mean_weight(module: nn.Module) -> float:
    weights = [weight.detach().flatten() for weight in module.parameters() if weight.ndim > 1]
    return float(torch.cat(weights).abs().mean()) if weights else 0.0


def _mean_loss(model: nn.Module, calibration: Calibration) -> float:
    total = 0.0
    with evaluating(model):
        for inputs, labels in calibration.batches():
            total += float(sample_losses(model(inputs), labels).double().sum())
    return total / len(calibration)


def _changes(model: nn.Module, paths: Sequence[str], calibration: Calibration, angular: bool) -> dict[str, float]:
    """The mean angular distance, or 1 - the mean cosine, between what each module reads and returns."""
    sums, counts = dict.fromkeys(paths, 0.0), dict.fromkeys(paths, 0)
    handles = []
    for path in paths:

        def hook(_module: nn.Module, inputs: tuple, output: Tensor, path: str = path) -> None:
            before, behind = inputs[0].double(), output.double()
            if angular:
                before, behind = before.flatten(1), behind.flatten(1)
                angles = torch.nn.functional.cosine_similarity(before, behind).clamp(-1, 1).arccos() / math.pi
                sums[path] += float(angles.sum())
            else:
                channel = 1 if before.ndim == 4 else -1
                angles = torch.nn.functional.cosine_similarity(before, behind, dim=channel)
                sums[path] += float((1 - angles).sum())
            counts[path] += angles.numel()

        handles.append(model.get_submodule(path).register_forward_hook(hook))
    try:
        with evaluating(model):
            for inputs, _ in calibration.batches():
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: sums[path] / counts[path] for path in paths}
