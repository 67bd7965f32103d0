"""Repairs of a neuron that has lost edges: a shifted bias, or kept weights and bias refitted together.

Reconstruction from the theory of sparse linear approximation (Yang, Wang, Ding and Yang, 2022): thresholding is
guaranteed an error of order k^(1-1/q) only, the best k-term combination k^(1/2-1/q); a refit closes part of the gap.

With S the kept edges of a neuron z = w·h + b, M = E[h hᵀ], m = E[h] and C = M - m mᵀ over the calibration data:

    bias correction    b + (w - w_S)·m                                           removes the mean of the change
    refit              u_S = (C_SS + λ I)⁻¹ C_S: w,   b + (w - u)·m              least squares in (u_S, b)
    its error²         wᵀ C w - (C_S: w)ᵀ C_SS⁻¹ (C_S: w)                        for λ = 0; at most thresholding's

Without a bias C is replaced by M. Weights are (out, d), masks boolean (out, d), M is (d, d); float64.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.compensation import Compensation, OwnRidge, Reconstruction
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.network.parameters import bias_of
from methods.progress import track

SYSTEM_ENTRIES = 2**24  # entries of the stacked (d, d) systems solved at once: 128 MiB in float64


def corrected_bias(weight: Tensor, changed: Tensor, bias: Tensor, mean: Tensor) -> Tensor:
    """Bias (out,) that keeps the mean pre-activation when ``weight`` (out, d) becomes ``changed``."""
    return bias + (weight - changed) @ mean


def refit_rows(weight: Tensor, mask: Tensor, second: Tensor, ridge: float = 0.0) -> Tensor:
    """Per row the weights on its mask that least change its output, u_S = (M_SS + λ I)⁻¹ M_S: w, and zeros elsewhere.

    All rows of a block are solved together: D M D + (I - D), with D the row's mask on the diagonal, decouples the
    dropped entries. Inputs that carry no information of their own (singular M_SS) get the minimum-norm share.

    Args:
        weight: (out, d).
        mask: (out, d), True where an edge is kept.
        second: (d, d) second moment, or covariance where the bias is fitted too.
        ridge: λ, absolute.
    """
    size = weight.shape[1]
    target = weight @ second
    result = torch.zeros_like(weight)
    identity = torch.eye(size, dtype=weight.dtype, device=weight.device)
    # dropped entries get a diagonal of the system's own scale, so that they do not spoil its condition
    unit = float(second.diagonal().mean()) or 1.0
    block = max(1, SYSTEM_ENTRIES // size**2)
    for start in range(0, len(weight), block):
        kept = mask[start : start + block].to(weight.dtype)
        systems = kept[:, :, None] * (second + ridge * identity) * kept[:, None, :]
        systems += torch.diag_embed((1 - kept) * unit)
        right = (kept * target[start : start + block])[:, :, None]
        factor, info = torch.linalg.cholesky_ex(systems)
        if int(info.abs().max()) == 0 and _well_conditioned(factor):
            solution = torch.cholesky_solve(right, factor)
        else:
            solution = torch.linalg.pinv(systems, hermitian=True, rtol=1e-12) @ right
        result[start : start + block] = kept * solution.squeeze(2)
    return result


def refit_error(weight: Tensor, mask: Tensor, second: Tensor) -> Tensor:
    """Root mean square output error (out,) after the best refit of the kept weights."""
    change = weight - refit_rows(weight, mask, second)
    return ((change @ second) * change).sum(1).clamp(min=0).sqrt()


class BiasCorrection(Compensation):
    """Keeps the weights and adds the mean of what was removed to the bias. Layers without a bias stay as they are.

    Of nodes, the readers' biases take over what the removed ones gave them on average, W_:j E[phi_j] each (the mean
    shift of Berisha, Mehnert and Condurache, ICCV 2025).
    """

    units = frozenset({"node", "edge"})

    def reconstruction(self, layer: NodeLayer, kept: Tensor, selection: OwnRidge) -> list[Reconstruction]:
        """The kept nodes as they are, and the mean of each removed one as a constant."""
        result = []
        for path, moments in zip(layer.readers, layer.moments, strict=True):
            matrix = torch.eye(layer.size, dtype=moments.mean.dtype, device=moments.mean.device)[:, kept]
            shift = moments.mean.clone()
            shift[kept] = 0
            has_bias = bias_of(layer.model.get_submodule(path)) is not None
            result.append(Reconstruction(matrix, shift if has_bias else None))
        return result

    def edge_biases(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """Bias b + (w - w_S)·E[h] for every layer that has a bias."""
        return {
            layer.name: _corrected(layer, layer.weight * masks[layer.name], layer.bias)
            for layer in layers
            if layer.bias is not None
        }


class RefitWithBias(Compensation):
    """Least squares over the kept weights and the bias of each neuron.

    Args:
        ridge: λ relative to Tr M / d.
    """

    units = frozenset({"edge"})

    def __init__(self, ridge: float = 1e-6) -> None:
        if not ridge >= 0:
            raise BadInput(f"compensation.ridge={ridge} is negative; expected 0 or more, for example 1e-6")
        self.ridge = ridge

    def edge_weights(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """The refitted weights, exactly zero off the mask."""
        return {layer.name: self._refitted(layer, masks[layer.name]) for layer in track(layers, "refit of edges")}

    def edge_biases(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """The biases that belong to the refitted weights."""
        return {
            layer.name: _corrected(layer, self._refitted(layer, masks[layer.name]), layer.bias)
            for layer in layers
            if layer.bias is not None
        }

    def _refitted(self, layer: EdgeLayer, mask: Tensor) -> Tensor:
        key = ("refit with bias", layer.name)
        if key not in layer.shared:  # weights and biases are asked for one after the other
            refitted = []
            groups = zip(
                layer.weight.chunk(layer.groups), mask.chunk(layer.groups), layer.moments_of_groups, strict=True
            )
            for weight, own, moments in groups:
                second = moments.second
                if layer.bias is not None:
                    second = second - torch.outer(moments.mean, moments.mean)
                ridge = self.ridge * float(moments.second.trace()) / len(second)
                refitted.append(refit_rows(weight, own, second, ridge))
            layer.shared[key] = (mask, torch.cat(refitted))
        return layer.shared[key][1]


def _corrected(layer: EdgeLayer, changed: Tensor, bias: Tensor) -> Tensor:
    """Bias (out,) that keeps the mean pre-activation of every unit, each with the means of its group's inputs."""
    groups = layer.groups
    parts = zip(
        layer.weight.chunk(groups), changed.chunk(groups), bias.chunk(groups), layer.moments_of_groups, strict=True
    )
    return torch.cat([corrected_bias(weight, new, own, moments.mean) for weight, new, own, moments in parts])


def _well_conditioned(factor: Tensor) -> bool:
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    return bool((pivots.amin(-1) > 1e-6 * pivots.amax(-1)).all())
