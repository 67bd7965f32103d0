"""Spectra of a network's layers, and what pruning one layer alone costs: the pictures of spectral pruning's theory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration, collect_moments, pooled
from methods.layers.views import precomputed
from methods.network.graph import NetworkGraph
from methods.network.parameters import weight_of
from methods.network.reading import evaluating
from methods.progress import track
from methods.seeds import stream
from methods.spectral.selection import SpectralSelection, degrees_of_freedom, reconstruction_matrix

LAMBDAS = tuple(10.0 ** (exponent / 2) for exponent in range(-16, 1))
"""The lambda, relative to the trace, at which degrees of freedom are drawn."""
FLOOR = 1e-12
"""Eigenvalues below this part of the largest are rounding errors of float32 features."""


@dataclass(frozen=True)
class LayerSpectrum:
    """One coupled group of nodes.

    Attributes:
        name: module path of the group's first writer.
        size: number of nodes m.
        eigenvalues: (m,) of the covariance, descending, divided by the largest.
        degrees: N(lambda) at each lambda relative to the trace.
        errors: ||f - f#|| / ||f|| on calibration data with this layer alone pruned to a width, by width.
    """

    name: str
    size: int
    eigenvalues: list[float]
    degrees: dict[float, float]
    errors: dict[int, float]


def node_layers(model: nn.Module, calibration: Calibration, residual: bool = False) -> list[NodeLayer]:
    """The network's groups as a method sees them; one pass over the calibration data for all of them."""
    groups = NetworkGraph(model, calibration.inputs[:2], residual=residual).groups
    views = {f"{group.name}/{reader.name}": (reader.name, reader.rows) for group in groups for reader in group.readers}
    moments = collect_moments(model, views, calibration)
    layers = []
    for group in groups:
        own = [moments[f"{group.name}/{reader.name}"] for reader in group.readers]
        own = [pooled(own)] * len(own) if group.recurrent else own
        generator = stream(calibration.seed, "spectra", group.name)
        layers.append(NodeLayer(group, model, calibration, generator, precomputed(own)))
    return layers


def spectrum(covariance: Tensor) -> Tensor:
    """(m,) eigenvalues, descending, relative to the largest; zeros for a dead layer."""
    values = torch.linalg.eigvalsh(covariance.double()).flip(0).clamp(min=0)
    return values / values[0] if bool(values[0] > 0) else values


def default_widths(size: int, count: int = 10) -> list[int]:
    """About ``count`` widths from 1 to size - 1, evenly spaced on a logarithmic axis, and some more of the largest."""
    if size < 2 or count < 1:
        return []
    geometric = {round(size ** (step / count)) for step in range(count + 1)}
    return sorted({max(1, min(size - 1, width)) for width in geometric | {round(0.75 * size), round(0.9 * size)}})


@torch.no_grad()
def outputs(model: nn.Module, calibration: Calibration) -> Tensor:
    """(n, out) float64 outputs on the calibration inputs."""
    with evaluating(model):
        return torch.cat([model(inputs).double() for inputs, _ in calibration.batches()])


@contextmanager
def rebuilt(model: nn.Module, layer: NodeLayer, kept: Tensor, matrix: Tensor) -> Iterator[None]:
    """Inside, every reader of the layer multiplies A phi_J instead of phi: the network with this layer pruned."""
    projection = torch.zeros(layer.size, layer.size, dtype=torch.float64, device=matrix.device)
    projection[:, kept] = matrix
    before = []
    try:
        with torch.no_grad():
            for reader in layer.group.readers:
                weight = weight_of(model.get_submodule(reader.name))
                before.append((weight, weight.detach().clone()))
                merged = torch.einsum("omr,mk->okr", reader.weights(weight.double()), projection)
                columns = reader.columns.reshape(-1).to(weight.device)
                weight[:, columns] = merged.reshape(len(weight), len(columns), *weight.shape[2:]).to(weight.dtype)
        yield
    finally:
        with torch.no_grad():
            for weight, values in before:
                weight.copy_(values)


def error_curve(
    model: nn.Module,
    layer: NodeLayer,
    widths: Sequence[int],
    selection: SpectralSelection,
    evaluation: Calibration,
    reference: Tensor,
) -> dict[int, float]:
    """||f - f#|| / ||f|| on the evaluation data, with one layer alone pruned and repaired, for each width."""
    errors = {}
    for width in widths:
        kept = selection.select(layer, width)
        matrix = reconstruction_matrix(layer.covariance, kept, selection.ridge(layer, kept))
        with rebuilt(model, layer, kept, matrix):
            errors[width] = float((outputs(model, evaluation) - reference).norm() / reference.norm())
    return errors


def layer_spectra(
    model: nn.Module,
    calibration: Calibration,
    selection: SpectralSelection | None = None,
    residual: bool = False,
    widths: Mapping[str, Sequence[int]] | int = 10,
    evaluation: Calibration | None = None,
) -> list[LayerSpectrum]:
    """Spectrum, degrees of freedom and error against width of every prunable layer.

    Args:
        model: a dense network; the same afterwards.
        calibration: the calibration samples.
        selection: how nodes are chosen for the errors; the paper's lambda = 1e-6 of the trace and theta = 0.5 if None.
        residual: whether residual streams are layers, too.
        widths: per layer (none for a layer that is not named), or about how many in every layer.
        evaluation: the samples on which outputs are compared; those of ``calibration`` if None.
    """
    selection = selection or SpectralSelection()
    evaluation = evaluation or calibration
    reference = outputs(model, evaluation)
    found = []
    for layer in track(node_layers(model, calibration, residual), "layers"):
        trace = layer.covariance.trace().item()
        own = default_widths(layer.size, widths) if isinstance(widths, int) else widths.get(layer.name, ())
        degrees = degrees_of_freedom(layer.covariance, [lam * trace for lam in LAMBDAS])
        found.append(
            LayerSpectrum(
                layer.name,
                layer.size,
                spectrum(layer.covariance).tolist(),
                dict(zip(LAMBDAS, degrees.tolist(), strict=True)),
                error_curve(model, layer, own, selection, evaluation, reference),
            )
        )
    return found


def visible(values: Sequence[float], floor: float = FLOOR) -> list[float]:
    """Values for a logarithmic axis: NaN where they are rounding errors."""
    return [value if value > floor else math.nan for value in values]
