"""HAP: Hessian-aware structured pruning by the average Hessian trace of each channel.

Paper: Yu, Yao, Gholami, Dong, Kim, Mahoney & Keutzer, "Hessian-Aware Pruning and Optimal Neural Implant" (WACV 2022),
section 3. A channel p (a neuron, or a filter with all its weights w_p, |p| of them) is as sensitive as

    s_p = Tr(H_pp) / |p| * ||w_p||^2,        Tr(H_pp) = E_v[v_p^T (H v)_p],  v Rademacher over all weights (Hutchinson),

which is the second-order change of the loss when H_pp is a multiple of the identity. H is the Hessian on one fixed
batch, in evaluation mode, in the weights of linear and convolutional layers only. Channels of all layers are ranked
together, and the least sensitive are removed. The neural implant (1 x 1 convolutions in place of some pruned channels)
is not implemented.

On a network that is not at a minimum a channel's trace may be NEGATIVE: as published, it is then pruned first. Here
such a trace counts as 0 (``clip``, our deviation), or the Fisher's trace is taken, which cannot be negative.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from methods.curvature.hessian import HessianProduct, hutchinson_diagonal, twice_differentiable
from methods.errors import BadInput
from methods.hessian.filter_obs import shared_diagonal
from methods.layers.gradients import sample_losses
from methods.layers.seen import NodeLayer
from methods.network.kinds.registry import is_layer, kind_of, matrix_of
from methods.network.parameters import weight_of
from methods.seeds import stream
from methods.selection import Selection


def channel_sensitivity(traces: Tensor, weight: Tensor) -> Tensor:
    """(m,) s_p from the traces (m,) of the channels' Hessian blocks and their weights (m, |p|)."""
    return traces / weight.shape[1] * weight.square().sum(1)


def hutchinson_traces(
    model: nn.Module, names: list[str], inputs: Tensor, labels: Tensor, probes: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Traces of the Hessian blocks of every output channel of the layers, (out,) each; they may be negative.

    Args:
        model: the network; its parameters and modes stay as they are.
        names: the layers in whose weights, jointly, the Hessian is taken.
        inputs: the batch on which the mean loss is taken.
        labels: its labels.
        probes: number of random vectors.
        generator: CPU stream of the probes.
    """
    modules = [model.get_submodule(name) for name in names]
    weights = [weight_of(module) for module in modules]
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with twice_differentiable(model):
            product = HessianProduct(sample_losses(model(inputs), labels).mean(), weights)
            diagonal = hutchinson_diagonal(product, product.gradient.detach(), probes, generator)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    blocks = diagonal.split([weight.numel() for weight in weights])
    traces = {}
    for name, module, block, weight in zip(names, modules, blocks, weights, strict=True):
        traces[name] = kind_of(module).as_matrix(block.view_as(weight)).flatten(1).sum(1)
    return traces


class HAPSelection(Selection[NodeLayer]):
    """Keeps the channels with the largest sensitivity s_p.

    Args:
        curvature: ``hessian`` (Hutchinson, as published) or ``fisher`` (mean squared per-sample gradients with labels
            sampled from the network's predictions: never negative).
        probes: number of Hutchinson vectors.
        samples: size of the batch for the Hessian: the first ones of the calibration set.
        clip: whether negative traces count as 0.
    """

    additive = True
    single_units = True

    def __init__(self, curvature: str = "hessian", probes: int = 300, samples: int = 512, clip: bool = True) -> None:
        if curvature not in ("hessian", "fisher"):
            raise BadInput(f"selection.curvature={curvature} is unknown; choose hessian or fisher")
        if samples < 1:
            raise BadInput(f"selection.samples={samples} is below 1; expected the size of the Hessian's batch")
        if probes < 1:
            raise BadInput(f"selection.probes={probes} is below 1; type for instance selection.probes=300")
        self.curvature, self.probes, self.samples, self.clip = curvature, probes, samples, clip

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) sensitivities, summed over the layers that write the nodes."""
        traces = self.traces(layer)
        total = torch.zeros(layer.size, dtype=torch.float64, device=layer.incoming.device)
        for name in layer.writers:
            trace = traces[name].clamp_min(0) if self.clip else traces[name]
            total += channel_sensitivity(trace, matrix_of(layer.model.get_submodule(name)).detach().double().flatten(1))
        return total

    def report(self, layer: NodeLayer, kept: Tensor) -> dict[str, float]:
        """How many channels of this layer have a negative trace, and the sum of all their traces."""
        trace = torch.stack([self.traces(layer)[name] for name in layer.writers]).sum(0)
        return {"negative_traces": float((trace < 0).sum()), "trace": float(trace.sum())}

    def traces(self, layer: NodeLayer) -> Mapping[str, Tensor]:
        """Traces of all layers of the network, computed once per pruning step."""
        key = ("hap", self.curvature, self.probes, self.samples)
        if key not in layer.shared:
            layer.shared[key] = self._fisher(layer) if self.curvature == "fisher" else self._hessian(layer)
        return layer.shared[key]

    def _fisher(self, layer: NodeLayer) -> dict[str, Tensor]:
        weights = {name: matrix_of(layer.model.get_submodule(name)) for name in layer_names(layer.model)}
        diagonal = shared_diagonal(layer, "sampled")  # its last column belongs to the bias
        return {name: diagonal[name][:, : weights[name][0].numel()].sum(1) for name in diagonal if name in weights}

    def _hessian(self, layer: NodeLayer) -> dict[str, Tensor]:
        data, generator = layer.calibration, stream(layer.calibration.seed, "hap", "probes")
        names, count = layer_names(layer.model), self.samples
        return hutchinson_traces(layer.model, names, data.inputs[:count], data.labels[:count], self.probes, generator)


def layer_names(model: nn.Module) -> list[str]:
    """Paths of all layers of a known kind."""
    return [name for name, module in model.named_modules() if is_layer(module)]
