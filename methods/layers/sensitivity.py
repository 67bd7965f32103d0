"""Empirical sensitivity of weights: the largest share that a weight has in what its output unit sums up.

Baykal, Liebenwein, Gilitschenski, Feldman and Rus, "SiPPing Neural Networks: Sensitivity-informed Provable Pruning of
Neural Networks" (arXiv 1910.05422), and Liebenwein, Baykal, Lang, Feldman and Rus, "Provable Filter Pruning for
Efficient Neural Networks", ICLR 2020. For an output unit i with weights w_ik and non-negative inputs a_k(x), taken
apart into its positive and its negative weights,

    s_ij = max over samples x of  w_ij a_j(x) / sum_k w_ik a_k(x),      k over the weights with the sign of w_ij,

a number in [0, 1]. Inputs that can be negative are split into their positive and negative parts, as if they were two
samples. Of the output positions of one sample the largest share counts (PFP, randomised SiPP) or the mean
(deterministic SiPP), as in the authors' package.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.layers.statistics import Calibration
from methods.network.kinds.registry import kind_of, matrix_of
from methods.network.reading import evaluating, listening

SMALLEST = torch.finfo(torch.float32).eps  # smaller sums give no share


@torch.no_grad()
def sensitivities(model: nn.Module, name: str, calibration: Calibration, positions: str) -> tuple[Tensor, int]:
    """Sensitivity of every weight of a layer, and the number of its output positions.

    Args:
        model: the network, run in evaluation mode.
        name: path of the layer.
        calibration: the samples; labels are not read.
        positions: ``max`` or ``mean``, over the output positions of a sample.

    Returns:
        (out, d) float64 shares in [0, 1], and positions per sample.
    """
    module = model.get_submodule(name)
    kind, weight = kind_of(module), matrix_of(module).detach().flatten(1)
    found = torch.zeros_like(weight, dtype=torch.float64)
    reads: list[Tensor] = []
    count = 1
    with evaluating(model), listening(model, {name: reads.append}):
        for inputs, _ in calibration.batches():
            reads.clear()
            model(inputs)
            for read in reads:
                patches = kind.patches(module, read)
                present = calibration.present(inputs)
                if present is not None and tuple(present.shape) == (len(patches), patches.shape[2]):
                    patches = patches * present[:, None]  # padding has no share in anything
                count = patches.shape[2]
                for part in patches.clamp_min(0), (-patches).clamp_min(0):
                    if bool(part.any()):
                        torch.maximum(found, _shares(weight, part, kind.groups(module), positions), out=found)
    return found, count


def _shares(weight: Tensor, patches: Tensor, groups: int, positions: str) -> Tensor:
    """(out, d) the largest share of each weight in non-negative ``patches`` (n, groups x d, T)."""
    rows = []
    for own, read in zip(weight.chunk(groups), patches.chunk(groups, 1), strict=True):
        flat = read.transpose(0, 1)  # (d, n, T)
        for signed in own.clamp_min(0), (-own).clamp_min(0):
            sums = signed @ read  # (n, out, T)
            inverse = torch.where(sums > SMALLEST, 1 / sums, 0)
            if positions == "mean":
                shares = (inverse @ read.transpose(1, 2)).amax(0) / read.shape[2]
            else:
                shares = torch.zeros_like(signed)
                for unit, line in enumerate(signed):
                    chosen = line.nonzero().flatten()
                    if len(chosen):
                        shares[unit, chosen] = (flat[chosen] * inverse[:, unit]).flatten(1).amax(1)
            rows.append(signed * shares)
    return torch.cat([plus + minus for plus, minus in zip(rows[::2], rows[1::2], strict=True)]).double()
