"""Split a layer in two: its input channels form groups, and each group's weights keep their largest singular values.

Liebenwein, Maalouf, Feldman and Rus, "Compressing Neural Networks: Towards Determining the Optimal Layer-wise
Decomposition" (ALDS, NeurIPS 2021, arXiv 2107.11442), section 2. The weight W (out, in x kernel) is cut into k slices
W_1, ..., W_k of input channels, and each becomes U_i V_i of rank j, by its singular value decomposition:

    W x = sum_i U_i (V_i x_i),    weights: j in kernel + k out j,

a convolution of k groups with the old kernel that writes k j channels, and a 1 x 1 one behind it. The relative error of
the whole in the operator norm is bounded by that of its worst slice, taken as max_i sigma_{j+1}(W_i) / sigma_1(W).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from methods.network.kinds.registry import matrix_of
from methods.network.parameters import bias_of

SPLIT = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Option:
    """One way to split a layer, or to leave it (slices 0).

    Attributes:
        slices: k.
        rank: j of each.
        weights: number of weights, without the bias.
        error: relative, in the operator norm.
    """

    slices: int
    rank: int
    weights: int
    error: float


class LowRank(nn.Sequential):
    """``read`` with the old kernel, ``write`` behind it; replaces one layer."""

    slices: int

    @torch.no_grad()
    def take_coordinates(self, source: nn.Module) -> None:
        """Take the weights of this rank that are nearest to a layer of the old shape, and its bias."""
        read, write = factors(source, self.slices, len(matrix_of(self[0])) // self.slices)
        matrix_of(self[0]).copy_(read.reshape(matrix_of(self[0]).shape))
        matrix_of(self[1]).copy_(write.reshape(matrix_of(self[1]).shape))
        bias, theirs = bias_of(self[1]), bias_of(source)
        if bias is not None and theirs is not None:
            bias.copy_(theirs)


def sliced(module: nn.Module, slices: int) -> Tensor:
    """(k, out, in / k x kernel) float64 slices of the weight, by input channels."""
    weight = matrix_of(module).detach().double()
    return weight.unflatten(1, (slices, -1)).transpose(0, 1).flatten(2)


def options(module: nn.Module, most: int) -> list[Option]:
    """The ways to split a layer that save weights, and the layer itself: cheapest first, each more exact than the last.

    Args:
        module: one of :data:`SPLIT`, ungrouped.
        most: slices at most; a number of slices has to divide the input channels, and is 1 for linear layers.
    """
    weight = matrix_of(module).detach().double()
    out, inputs = weight.shape[:2]
    whole = weight.numel()
    norm = float(torch.linalg.matrix_norm(weight.flatten(1), ord=2))
    found = [Option(0, min(out, whole // out), whole, 0.0)]
    counts = [1] if isinstance(module, nn.Linear) else [k for k in range(1, most + 1) if inputs % k == 0]
    for slices in counts:
        values = torch.linalg.svdvals(sliced(module, slices)).amax(0)
        each = whole // out + slices * out
        for rank in range(1, len(values) + 1):
            error = float(values[rank]) / max(norm, 1e-300) if rank < len(values) else 0.0
            if rank * each < whole:
                found.append(Option(slices, rank, rank * each, error))
    chosen: list[Option] = []
    for option in sorted(found, key=lambda option: (option.weights, option.error)):
        if not chosen or option.error < chosen[-1].error or option.slices == 0:
            chosen.append(option)
    return chosen


def factors(module: nn.Module, slices: int, rank: int) -> tuple[Tensor, Tensor]:
    """(k j, in / k x kernel) weights that read and (out, k j) weights that write, float64, of balanced size."""
    left, values, right = torch.linalg.svd(sliced(module, slices), full_matrices=False)
    root = values[:, :rank].sqrt()
    read = root[:, :, None] * right[:, :rank]
    write = left[:, :, :rank] * root[:, None]
    return read.flatten(0, 1), write.permute(1, 0, 2).flatten(1)


def split(module: nn.Module, option: Option) -> LowRank:
    """The two layers that replace one; a new module.

    Args:
        module: one of :data:`SPLIT`.
        option: with one slice or more.
    """
    bias, out = bias_of(module), len(matrix_of(module))
    width, with_bias = option.slices * option.rank, bias is not None
    first: nn.Module
    second: nn.Module
    if isinstance(module, nn.Linear):
        first = skip_init(nn.Linear, module.in_features, width, bias=False)
        second = skip_init(nn.Linear, width, out, bias=with_bias)
    else:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        kind = type(module)
        first = skip_init(
            kind,
            module.in_channels,
            width,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            option.slices,
            bias=False,
            padding_mode=module.padding_mode,  # type: ignore[arg-type]
        )
        second = skip_init(kind, width, out, 1, bias=with_bias)
    new = LowRank(OrderedDict((("0", first), ("1", second)))).to(matrix_of(module))
    new.slices = option.slices
    new.take_coordinates(module)
    return new.train(module.training)
