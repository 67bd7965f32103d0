"""Measure how far a pruned network is from the original on calibration data, and bound that by the layers' errors.

||g||_n^2 = (1/n) sum_i ||g(x_i)||^2 over the n calibration samples. For a chain of linear layers with 1-Lipschitz
activations, weights W_l before and W#_l after pruning, phi_l what layer l of the original network reads, J_l its kept
inputs and J_(l+1) its kept outputs,

    e_l = ||(W_l phi_l + b_l)_J_(l+1) - W#_l phi_l,J_l - b#_l||_n
    ||f - f#||_n <= sum_l (prod_(l' > l) ||W#_l'||_op) e_l

for every choice of nodes and every repair: layers are exchanged one at a time from the input, and each exchange changes
the input of the next pruned layer by at most e_l. The bound is not sharp but needs no assumption, unlike theorem 1 of
Suzuki et al. (IJCAI 2020), whose sum over layers it follows; our derivation (``methods.spectral.theory``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.layers.statistics import Calibration, Moments, collect_moments
from methods.network.kinds.registry import is_layer, matrix_of
from methods.network.parameters import bias_of
from methods.network.reading import evaluating, patch_rows
from methods.spectral.theory import propagation_bound

ONE_LIPSCHITZ = (
    nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU,
    nn.Hardtanh, nn.Softsign,
)  # fmt: skip


@dataclass(frozen=True)
class NetworkError:
    """||f - f#||_n, and the same relative to ||f||_n."""

    absolute: float
    relative: float


@torch.no_grad()
def network_error(original: nn.Module, pruned: nn.Module, calibration: Calibration) -> NetworkError:
    """The root mean squared distance of the outputs, in evaluation mode; no labels are read."""
    difference, size = 0.0, 0.0
    with evaluating(original), evaluating(pruned):
        for inputs, _ in calibration.batches():
            before, after = original(inputs).double(), pruned(inputs).double()
            difference += float((before - after).square().sum())
            size += float(before.square().sum())
    absolute = (difference / len(calibration)) ** 0.5
    return NetworkError(absolute, (difference / size) ** 0.5 if size > 0 else 0.0)


def chain(model: nn.Module) -> list[str] | None:
    """Paths of the layers without a kernel if the network is a sequence of these and 1-Lipschitz activations."""
    if not isinstance(model, nn.Sequential):
        return None
    children = dict(model.named_children())
    linear = [name for name, each in children.items() if is_layer(each) and matrix_of(each).ndim == 2]
    lipschitz = all(name in linear or isinstance(each, ONE_LIPSCHITZ) for name, each in children.items())
    slopes = [each.negative_slope for each in children.values() if isinstance(each, nn.LeakyReLU)]
    if not lipschitz or any(abs(slope) > 1 for slope in slopes):
        return None
    return linear


@torch.no_grad()
def chain_bound(
    original: nn.Module, pruned: nn.Module, kept: Mapping[str, Tensor], calibration: Calibration
) -> float | None:
    """The bound on ||f - f#||_n of the module's docstring; None if the network is not a chain.

    Args:
        original: the network before pruning.
        pruned: the network after one step of pruning, without training.
        kept: for each pruned layer the output units that stay.
        calibration: the samples.
    """
    names = chain(original)
    if not names:
        return None
    views = {name: (name, patch_rows(original.get_submodule(name))) for name in names}
    moments = collect_moments(original, views, calibration)
    errors, norms = [], []
    reads: Tensor | None = None
    for name in names:
        before, after = original.get_submodule(name), pruned.get_submodule(name)
        stays = kept.get(name)
        errors.append(_exchange_error(before, after, reads, stays, moments[name]))
        norms.append(float(torch.linalg.matrix_norm(matrix_of(after).double(), 2)))
        reads = stays
    return propagation_bound(errors, norms)


def _exchange_error(
    before: nn.Module, after: nn.Module, reads: Tensor | None, stays: Tensor | None, moments: Moments
) -> float:
    """e_l from the second moments and means of what the original layer reads."""
    weight, shift = matrix_of(before).double(), _bias(before)
    if stays is not None:
        weight, shift = weight[stays.to(weight.device)], shift[stays.to(weight.device)]
    difference = weight.clone()
    if reads is None:
        difference -= matrix_of(after).double()
    else:
        difference[:, reads.to(weight.device)] -= matrix_of(after).double()
    shift = shift - _bias(after)
    square = ((difference @ moments.second) * difference).sum() + 2 * shift @ difference @ moments.mean
    return float((square + shift.square().sum()).clamp(min=0).sqrt())


def _bias(module: nn.Module) -> Tensor:
    weight, bias = matrix_of(module), bias_of(module)
    return weight.new_zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
