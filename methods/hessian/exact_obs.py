"""ExactOBS, the pruner of Optimal Brain Compression (Frantar & Alistarh, NeurIPS 2022).

Layer by layer, the squared error of the pre-activations on the calibration data, ``||W X - W' X||^2``, is a quadratic
in every row w of W with the same Hessian for all rows, so OBS is exact for it:

    H = 2 X X^T (d, d);   dL_j = w_j^2 / (2 [H^-1]_jj);   w <- w - H^-1_:j w_j / [H^-1]_jj

One weight at a time goes from each row, and H^-1 is down-dated exactly to the inverse over the remaining weights:
``H^-1 <- H^-1 - H^-1_:j H^-1_j: / [H^-1]_jj``. When every row has been emptied, the recorded losses of all rows are
sorted together, and the cheapest removals are carried out: each row goes as far in its own sequence as it has removals
among them. Blocks of c consecutive inputs are treated the same way with the c x c block of H^-1 in place of its
diagonal, and an n:m pattern closes a group of m inputs once m - n of them are gone.

The final weights of a row depend only on which of its weights are left: they are the least-squares fit of the
row's old output (``compensation=least_squares``). So no trace of the weights is stored, only the order of removals.

Cost: rows are treated in batches; rank-one down-dates are collected as vectors and applied to the inverse every
``INTERVAL`` removals as one matrix product; then the removed columns are dropped, too. O(rows d^3 / 3) in all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput, Skipped
from methods.layers.seen import EdgeLayer
from methods.progress import track
from methods.selection import SHARE_TOLERANCE, Selection

INTERVAL = 64  # removals between two clean-ups of a row's inverse
BATCH_BYTES = 2**26  # inverses of a batch of rows


class Removals(NamedTuple):
    """The order in which each row loses its weights (or blocks of them), and the losses.

    Attributes:
        order: (rows, steps) int64, the block removed at each step.
        losses: (rows, steps) increase of the squared output error by that step.
    """

    order: Tensor
    losses: Tensor


def removal_order(weight: Tensor, inverse: Tensor, block: int = 1, pattern: tuple[int, int] | None = None) -> Removals:
    """Greedy OBS removals of every row until it is empty, or until the pattern n:m is met.

    Args:
        weight: (rows, d) float64.
        inverse: (d, d) H^-1, float64.
        block: consecutive inputs that go together; divides d.
        pattern: (n, m), n of every m consecutive inputs stay; m divides d, and ``block`` is 1.
    """
    rows, size = weight.shape
    at_once = max(1, min(rows, BATCH_BYTES // (8 * size * size)))
    parts = [_Rows(part, inverse, block, pattern).run() for part in track(weight.split(at_once), "ExactOBS rows")]
    return Removals(torch.cat([part.order for part in parts]), torch.cat([part.losses for part in parts]))


class _Rows:
    """A batch of rows that lose one block after the other; all rows have lost the same number.

    Columns are the blocks that were left at the last clean-up. ``inverse`` is H^-1 as of then and V the vectors since,
    so that the current one is ``inverse - V^T V``; its diagonal blocks and the weights are always current.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, block: int, pattern: tuple[int, int] | None) -> None:
        self.rows, self.size = weight.shape
        self.block, self.pattern = block, pattern
        blocks = self.size // block
        self.index = torch.arange(self.rows, device=weight.device)
        self.weight = weight.clone()
        self.inverse = inverse.expand(self.rows, -1, -1)
        diagonal = torch.stack([inverse[a : a + block, a : a + block] for a in range(0, self.size, block)])
        self.diagonal = diagonal.expand(self.rows, -1, -1, -1).clone()  # (rows, blocks, block, block)
        self.names = torch.arange(blocks, device=weight.device).expand(self.rows, -1)
        self.alive = torch.ones(self.rows, blocks, dtype=torch.bool, device=weight.device)
        if pattern is None:
            self.steps = blocks
        else:
            self.steps = blocks // pattern[1] * (pattern[1] - pattern[0])
            self.gone = torch.zeros(self.rows, blocks // pattern[1], dtype=torch.int64, device=weight.device)

    def run(self) -> Removals:
        order, losses = [], []
        for start in range(0, self.steps, INTERVAL):
            steps = min(INTERVAL, self.steps - start)
            width = self.weight.shape[1]
            vectors = self.weight.new_zeros(self.rows, steps * self.block, width)
            for step in range(steps):
                column, loss = self.remove(vectors, step)
                order.append(self.names[self.index, column])
                losses.append(loss)
            if start + steps < self.steps:
                self.clean(vectors)
        return Removals(torch.stack(order, 1), torch.stack(losses, 1))

    def remove(self, vectors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Take the cheapest block out of every row; returns its column and its loss."""
        score = self.scores()
        column = score.argmin(1)
        loss = score[self.index, column] / 2
        c, done = self.block, step * self.block
        inner = column[:, None] * c + torch.arange(c, device=column.device)  # (rows, c) its columns of the inverse
        lines = self.inverse[self.index[:, None], inner]  # (rows, c, width)
        if done:
            earlier = vectors[:, :done]
            picked = earlier.gather(2, inner[:, None, :].expand(-1, done, -1))
            lines = torch.baddbmm(lines, picked.transpose(1, 2), earlier, alpha=-1)
        pivot = lines.gather(2, inner[:, None, :].expand(-1, c, -1))  # (rows, c, c)
        target = self.weight.gather(1, inner)[:, :, None]
        if c == 1:
            root = pivot.clamp_min(torch.finfo(pivot.dtype).tiny).sqrt()
            fresh, target = lines / root, target / root
        else:
            root = torch.linalg.cholesky(pivot)
            fresh = torch.linalg.solve_triangular(root, lines, upper=False)
            target = torch.linalg.solve_triangular(root, target, upper=False)
        vectors[:, done : done + c] = fresh
        self.weight -= (target.transpose(1, 2) @ fresh).squeeze(1)
        self.weight.scatter_(1, inner, 0.0)
        if c == 1:
            self.diagonal.view(self.rows, -1).sub_(fresh.squeeze(1).square_())
        else:
            grouped = fresh.view(self.rows, c, -1, c)
            self.diagonal -= torch.einsum("rkbi,rkbj->rbij", grouped, grouped)
        self.alive[self.index, column] = False
        if self.pattern is not None:
            self.gone[self.index, self.names[self.index, column] // self.pattern[1]] += 1
        return column, loss

    def scores(self) -> Tensor:
        """(rows, blocks) w_B^T ([H^-1]_BB)^-1 w_B, infinite where nothing may be removed."""
        open_ = self.alive
        if self.pattern is not None:
            n, m = self.pattern
            open_ = open_ & (self.gone.gather(1, self.names // m) < m - n)
        if self.block == 1:
            diagonal = self.diagonal.view(self.rows, -1).clamp_min(torch.finfo(self.weight.dtype).tiny)
            return (self.weight.square() / diagonal).masked_fill_(~open_, torch.inf)
        identity = torch.eye(self.block, dtype=self.weight.dtype, device=self.weight.device)
        blocks = torch.where(self.alive[:, :, None, None], self.diagonal, identity)  # removed ones have become zero
        weight = self.weight.view(self.rows, -1, self.block)
        solved = torch.linalg.solve(blocks, weight)
        return (weight * solved).sum(2).masked_fill_(~open_, torch.inf)

    def clean(self, vectors: Tensor) -> None:
        """Apply the pending down-dates and drop the removed columns."""
        blocks = self.alive.nonzero()[:, 1].view(self.rows, -1)
        inner = (blocks[:, :, None] * self.block + torch.arange(self.block, device=blocks.device)).flatten(1)
        width = inner.shape[1]
        kept = vectors.gather(2, inner[:, None, :].expand(-1, vectors.shape[1], -1))
        lines = self.inverse[self.index[:, None], inner]
        inverse = lines.gather(2, inner[:, None, :].expand(-1, width, -1))
        self.inverse = torch.baddbmm(inverse, kept.transpose(1, 2), kept, alpha=-1)
        self.weight = self.weight.gather(1, inner)
        self.diagonal = self.diagonal[self.index[:, None], blocks]
        self.names = self.names.gather(1, blocks)
        self.alive = torch.ones_like(blocks, dtype=torch.bool)


def cheapest_removals(removals: Removals, count: int) -> Tensor:
    """(rows,) how many removals each row makes when the ``count`` cheapest of the whole layer are made."""
    rows, steps = removals.losses.shape
    chosen = removals.losses.flatten().argsort(stable=True)[:count]
    return torch.bincount(chosen // steps, minlength=rows)


def kept_mask(removals: Removals, counts: Tensor, size: int, block: int = 1) -> Tensor:
    """(rows, size) True where a weight is left after the first ``counts[i]`` removals of row i."""
    rows, steps = removals.order.shape
    made = torch.arange(steps, device=counts.device) < counts[:, None]
    gone = torch.zeros(rows, size // block, dtype=torch.bool, device=counts.device)
    gone.scatter_(1, removals.order, made)
    return ~gone.repeat_interleave(block, 1)


def inverse_hessian(second: Tensor, count: int, damping: float) -> tuple[Tensor, Tensor]:
    """H^-1 of H = 2 X X^T + damping x mean diagonal, and which inputs are always zero (their H_jj is set to 1).

    Args:
        second: (d, d) = X X^T / count.
        count: number of columns of X.
        damping: relative to the mean of H's diagonal.
    """
    hessian = 2 * count * second
    dead = hessian.diagonal() == 0
    hessian = hessian + torch.diag(dead.to(hessian) + damping * hessian.diagonal().mean())
    factor, info = torch.linalg.cholesky_ex(hessian)
    if int(info) or not bool(factor.isfinite().all()):
        raise BadInput(
            "the inputs of a layer are linearly dependent on the calibration samples, their Hessian has no inverse; "
            "type selection.damping=1e-4 or take more calibration samples"
        )
    return torch.cholesky_inverse(factor), dead


class ExactOBSSelection(Selection[EdgeLayer]):
    """Keeps in each layer what greedy, exact OBS on the layer's output error leaves. Combine with least squares.

    Args:
        damping: added to H's diagonal, relative to its mean. (The authors' code uses 0 and adds the identity where H
            is singular, which depends on the inputs' scale.)
        pattern: ``n:m`` keeps n of every m inputs of each output unit (for instance 2:4), m running over the channels
            of one kernel position in convolutions; None chooses freely.
        block: consecutive inputs that are removed together.
    """

    def __init__(self, damping: float = 1e-4, pattern: str | None = None, block: int = 1) -> None:
        if damping < 0:
            raise BadInput(
                f"selection.damping={damping:g} is negative; expected 0 or more, relative to H's mean diagonal"
            )
        self.damping, self.block = damping, block
        self.pattern = None if pattern is None else _parsed(pattern)
        self.share = None if self.pattern is None else self.pattern[0] / self.pattern[1]
        if block < 1 or (block > 1 and pattern is not None):
            raise BadInput(
                "selection.block is 1 or more, and n:m patterns remove single weights; type selection.block=1"
            )

    def select(self, layer: EdgeLayer, k: Count) -> Tensor:
        """Mask (out, d) of the k weights that stay in the layer, or k[i] in row i; blocks may leave fewer than k."""
        rows, size = layer.live.shape
        period = self.pattern[1] if self.pattern else self.block
        channels = layer.shape[1]
        if (channels if self.pattern else size) % period:
            raise Skipped(f"{layer.name} reads {channels} channels, not a multiple of {period}; leave the layer out")
        # n:m groups lie along the channels, which therefore have to run fastest
        columns = torch.arange(size, device=layer.weight.device)
        if self.pattern:
            columns = columns.view(channels, -1).T.flatten()
        parts = []
        weights, alive = layer.weight[:, columns].chunk(layer.groups), layer.live[:, columns].chunk(layer.groups)
        for weight, live, own in zip(weights, alive, layer.moments_of_groups, strict=True):  # a group has one Hessian
            inverse, dead = inverse_hessian(own.second[columns][:, columns], own.count, self.damping)
            weight = torch.where(dead | ~live, 0.0, weight)  # zeros go first, at no cost
            parts.append(removal_order(weight, inverse, self.block, self.pattern))
        removals = Removals(*(torch.cat(each) for each in zip(*parts, strict=True)))
        mask = torch.empty_like(layer.live)
        mask[:, columns] = kept_mask(removals, self._counts(removals, k, rows, size), size, self.block)
        return mask & layer.live

    def _counts(self, removals: Removals, k: Count, rows: int, size: int) -> Tensor:
        device = removals.order.device
        if self.pattern is not None:
            n, m = self.pattern
            asked = (int(k.sum()) if isinstance(k, Tensor) else k) / (rows * size)
            if abs(asked - n / m) > SHARE_TOLERANCE:
                raise BadInput(
                    f"the pattern {n}:{m} keeps {n / m:.3g} of a layer, the budget asks for {asked:.3g}; "
                    f"type allocation=uniform schedule=one_shot budget.keep={n / m:.3g}"
                )
            return torch.full((rows,), removals.order.shape[1], device=device)
        if isinstance(k, Tensor):
            return (size - k.to(device) + self.block - 1) // self.block
        return cheapest_removals(removals, -(-(rows * size - k) // self.block))


def _parsed(pattern: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+):(\d+)", str(pattern))
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise BadInput(
            f"selection.pattern={pattern} is not n:m with 0 < n < m; type for instance selection.pattern='2:4'"
        )
    return int(found[1]), int(found[2])
