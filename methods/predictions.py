r"""What the theories predict of one pruning, layer by layer, beside what it does.

For a network W that was pruned once, without training, every layer is looked at alone: only its change Delta is made,
all others stay dense. Predicted from the dense network and the calibration samples:

    OBD           1/2 sum h Delta^2,  h the diagonal of the Fisher                        (LeCun et al., 1989)
    CBS           1/2 Delta^T F Delta = 1/2 mean_n (g_n . Delta)^2                        (Yu et al., 2022)
    OBS group     min 1/2 D^T (F + lambda I) D over all D that remove the same weights    (Hassibi & Stork, 1992)
    Kron-OBD      1/2 sum (G Delta A) * Delta                                             (Wang et al., 2019)
    radius        1/2 rho ||Delta||^2,  rho the largest eigenvalue of the K-FAC Fisher    (Ebrahimi & Klabjan)
    spectral      input and output information loss, 4 lambda N^theta, N(lambda) / k      (Suzuki et al., 2020)
    DPP           -log det(L_J) / k                                                       (Mariet & Sra, 2016)
    lq            bound on the removed tail, and on the output                            (Yang et al., 2022)
    PQ            share of units that the PQ index asks to keep, minus the share kept     (Diao et al., 2023)

The first five are in units of the loss. They are evaluated at the change that was really made, repair included; without
repair that is what the papers have. Labels of the Fisher are drawn from the network's own predictions. Measured are the
increase of the loss on the calibration samples and the relative error of what the layer (for nodes: its readers)
computes. For the network, predictions are summed over layers, CBS's with all cross terms. Comparing theories beyond
their own methods is our extension.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.compensation import Compensation
from methods.coupling import Reader
from methods.dpp import DPPKernel
from methods.flatness import top_eigenpair
from methods.gradients import draw_labels, per_sample_gradients, sample_losses
from methods.graph import NetworkGraph
from methods.kfac import Factors, factorable, kfac_factors
from methods.layers import NodeLayer
from methods.lq_allocation import outgoing_norms
from methods.obs import group_update
from methods.progress import track
from methods.pruner import Pruned, Pruner
from methods.seeds import stream
from methods.sparse_lq import output_tail_bound, pq_retained, tail_bound
from methods.spectral import SpectralSelection
from methods.statistics import Calibration, collect_moments, evaluating, listening, patch_rows

GRADIENT_BYTES = 2**29  # of the single-sample gradients of one layer
MOST_GRADIENTS = 256
OBS_DAMPING = 1e-4
Q = 0.5
LARGEST_MOMENT = 1024  # inputs of a layer up to which the lq bound on its output is evaluated
LOSS, ERROR = "loss", "relative output error"


def diagonal_increase(curvature: Tensor, change: Tensor) -> float:
    """OBD: 1/2 sum h Delta^2; both (d,)."""
    return 0.5 * float((curvature * change.square()).sum())


def fisher_increase(slopes: Tensor) -> float:
    """CBS: 1/2 mean (g_n . Delta)^2 from the products (N,), which add up over layers."""
    return 0.5 * float(slopes.square().mean())


def group_increase(gradients: Tensor, weight: Tensor, removed: Tensor, damping: float) -> float:
    """OBS: 1/2 w_S^T ([F^-1]_SS)^-1 w_S for the removed set S, F = lambda I + G^T G / N; arguments as group_update."""
    update = group_update(gradients, weight, removed, damping)
    return fisher_increase(gradients.double() @ update) + 0.5 * damping * float(update.square().sum())


def kronecker_increase(change: Tensor, factors: Factors) -> float:
    """Kron-OBD: 1/2 tr(G Delta A Delta^T), Delta (out, d); a bias column of A that Delta lacks counts as unchanged."""
    if change.shape[1] < len(factors.A):
        change = torch.cat([change, change.new_zeros(len(change), len(factors.A) - change.shape[1])], 1)
    return 0.5 * float(((factors.G @ change @ factors.A) * change).sum())


def radius_increase(radius: float, change: Tensor) -> float:
    """1/2 rho ||Delta||^2, an upper bound on a quadratic with curvature at most rho."""
    return 0.5 * radius * float(change.square().sum())


def negative_log_determinant(kernel: Tensor, kept: Tensor) -> float:
    """-log det(L_J) / k: small for a diverse set."""
    return -float(torch.linalg.slogdet(kernel[kept][:, kept]).logabsdet) / max(len(kept), 1)


@dataclass
class Site:
    """One layer's change: modules whose weights differ, and what else is known of it.

    Attributes:
        name: of the layer or group.
        before, after: weight tensors by module path.
        removed: masks of the weights that were removed, by module path.
        biases: new biases by module path.
        own: predictions that need no curvature, with the unit of what they are about.
    """

    name: str
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    removed: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)

    def change(self, path: str) -> Tensor:
        """Delta of one module as (out, d)."""
        return (self.after[path] - self.before[path]).flatten(1)

    @property
    def flat_change(self) -> Tensor:
        """Delta of all modules, end to end."""
        return torch.cat([self.change(path).flatten() for path in self.before])

    def network(self, dense: nn.Module) -> nn.Module:
        """The dense network with this change alone."""
        model = copy.deepcopy(dense)
        with torch.no_grad():
            for path, weight in self.after.items():
                model.get_submodule(path).weight.copy_(weight)
            for path, bias in self.biases.items():
                model.get_submodule(path).bias.copy_(bias)
        return model


class Theories:
    """All predictions for one pruned network.

    Args:
        dense: the network before pruning.
        pruned: what the pruner made of it.
        pruner: with which parts.
        calibration: the samples that the pruner had.
    """

    def __init__(self, dense: nn.Module, pruned: Pruned, pruner: Pruner, calibration: Calibration) -> None:
        self.dense, self.pruned, self.pruner, self.calibration = dense, pruned, pruner, calibration

    @property
    def applicable(self) -> bool:
        """Whether the weights are those of one pruning: one step, no rewinding, single weights or nodes."""
        once = len(self.pruned.steps) == 1 and self.pruner.schedule.rewind == "none"
        return once and self.pruner.selection.unit in ("node", "edge")

    def rows(self, score: Callable[[nn.Module], float | None] | None = None) -> list[dict[str, Any]]:
        """Predictions as the record has them: theory, layer (None for the network), predicted, measured, unit.

        Args:
            score: accuracy of a network; what the loss on the calibration samples predicts of it is a row, too.
        """
        if not self.applicable:
            return []
        sites = [site for site in self._sites() if bool(site.flat_change.any())]
        if not sites:
            return []
        errors = output_errors(self.dense, sites, self.calibration)
        reference = mean_loss(self.dense, self.calibration)
        dense_score = score(self.dense) if score else None
        slopes, factors = 0.0, self._factors(sites)
        result: list[dict[str, Any]] = []
        totals: dict[tuple[str, str | None], float] = {}
        increases = []
        for site in track(sites, "theories of each layer"):
            alone = site.network(self.dense)
            increase = mean_loss(alone, self.calibration) - reference
            increases.append(increase)
            own_slopes, predicted = self._in_loss(site, factors)
            slopes = slopes + own_slopes
            every = {name: (value, LOSS) for name, value in predicted.items()}
            every |= {name: (value, None) for name, value in site.own.items()}
            for name, (value, unit) in every.items():
                totals[name, unit] = totals.get((name, unit), 0.0) + value
                result.append(_row(name, site.name, value, increase, unit))
                if unit is None:
                    result.append(_row(name, site.name, value, errors[site.name], ERROR))
            if score and dense_score is not None:
                result.append(
                    _row(CALIBRATION_LOSS, site.name, increase, _drop(dense_score, score(alone)), "accuracy drop")
                )
        whole = mean_loss(self.pruned.model, self.calibration) - reference
        totals[CBS, LOSS] = fisher_increase(slopes)  # type: ignore[arg-type]
        totals["each layer pruned alone, summed", LOSS] = math.fsum(increases)
        result += [_row(name, None, value, whole, unit) for (name, unit), value in totals.items()]
        if score and dense_score is not None:
            drop = _drop(dense_score, score(self.pruned.model))
            result.append(_row(CALIBRATION_LOSS, None, whole, drop, "accuracy drop"))
        return result

    def _in_loss(self, site: Site, factors: Mapping[str, Factors]) -> tuple[Tensor, dict[str, float]]:
        """Products g_n . Delta (N,) of one layer, and its predictions in units of the loss."""
        paths, change = list(site.before), site.flat_change
        gradients = self._gradients(paths, change.numel())
        weight = torch.cat([site.before[path].flatten() for path in paths])
        gone = torch.cat([site.removed[path].flatten() for path in paths])
        slopes = torch.cat([part.double() @ change for part in gradients.split(16)])
        curvature = torch.zeros_like(change)
        for part in gradients.split(16):
            curvature += part.double().square().sum(0)
        predicted = {
            "OBD": diagonal_increase(curvature / len(gradients), change),
            CBS: fisher_increase(slopes),
            "OBS group": group_increase(gradients, weight, gone, OBS_DAMPING),
        }
        known = [path for path in paths if path in factors]
        if known == paths:
            predicted["Kron-OBD"] = sum(kronecker_increase(site.change(path), factors[path]) for path in paths)
            radius = max(top_eigenpair(factors[path].A)[0] * top_eigenpair(factors[path].G)[0] for path in paths)
            predicted["spectral radius (K-FAC)"] = radius_increase(radius, change)
        return slopes, predicted

    def _gradients(self, paths: Sequence[str], size: int) -> Tensor:
        """(N, d) single-sample gradients with drawn labels; the same samples for every layer."""
        samples = min(MOST_GRADIENTS, len(self.calibration), max(8, GRADIENT_BYTES // (4 * size)))
        inputs, labels = self.calibration.inputs[:samples], self.calibration.labels[:samples]
        generator = stream(self.calibration.seed, "theories", "labels")
        labels = draw_labels(self.dense, inputs, labels, generator, self.calibration.batch_size)
        parts = []
        with evaluating(self.dense):
            for x, y in zip(inputs.split(32), labels.split(32), strict=True):
                parts.append(torch.cat([part.flatten(1) for part in per_sample_gradients(self.dense, paths, x, y)], 1))
        return torch.cat(parts).detach()

    def _factors(self, sites: Sequence[Site]) -> dict[str, Factors]:
        possible = set(factorable(self.dense))
        names = list(dict.fromkeys(path for site in sites for path in site.before if path in possible))
        inputs, labels = self.calibration.inputs[:MOST_GRADIENTS], self.calibration.labels[:MOST_GRADIENTS]
        generator = stream(self.calibration.seed, "theories", "factors")
        return kfac_factors(self.dense, names, inputs, labels, generator=generator) if names else {}

    # --- the change of each layer ------------------------------------------------------------------------------------

    def _sites(self) -> Iterator[Site]:
        return self._edge_sites() if self.pruned.unit == "edge" else self._node_sites()

    def _edge_sites(self) -> Iterator[Site]:
        small = {
            name: module
            for name, module in self.dense.named_modules()
            if f"{name}.weight" in self.pruned.masks and _inputs(module) <= LARGEST_MOMENT
        }
        views = {name: (name, patch_rows(module)) for name, module in small.items()}
        moments = collect_moments(self.dense, views, self.calibration) if views else {}
        for key, mask in self.pruned.masks.items():
            path = key.removesuffix(".weight")
            old, new = (model.get_submodule(path) for model in (self.dense, self.pruned.model))
            weight, live = old.weight.detach().double(), mask.flatten(1)
            site = Site(path, {path: weight}, {path: new.weight.detach().double()}, {path: ~mask})
            if old.bias is not None and not torch.equal(old.bias, new.bias):
                site.biases[path] = new.bias.detach()
            rows, counts = weight.flatten(1), live.sum(1)
            site.own["lq tail bound"] = _tail(rows, counts, tail_bound(rows, Q, counts.clamp(min=1)))
            if path in moments:
                second = moments[path].second
                site.own["lq bound on the output"] = float(
                    output_tail_bound(rows, Q, counts.clamp(min=1), second).square().sum().sqrt()
                )
            site.own["PQ index"] = _pq_excess(rows.reshape(-1), int(live.sum()))
            yield site

    def _node_sites(self) -> Iterator[Site]:
        groups = NetworkGraph(self.dense, self.calibration.inputs[:2], residual=self.pruner.prune_residual).groups
        views = {f"{g.name}/{r.name}": (r.name, r.rows) for g in groups for r in g.readers}
        moments = collect_moments(self.dense, views, self.calibration)
        shared: dict[str, Any] = {}
        for group in groups:
            kept = self.pruned.kept[group.name]
            own = [moments[f"{group.name}/{reader.name}"] for reader in group.readers]
            generator = stream(self.calibration.seed, "theories", group.name)
            layer = NodeLayer(group, self.dense, self.calibration, generator, lambda own=own: own, shared)
            if len(kept) == layer.size:
                continue
            site = Site(group.name)
            repairs = self.pruner.compensation.reconstruction(layer, kept, self.pruner.selection)
            for number, reader in enumerate(group.readers):
                self._add_reader(site, reader, kept, repairs[number] if repairs else None)
            self._add_writers(site, layer, kept)
            site.own = node_predictions(layer, kept, getattr(self.pruner.selection, "kernel", None), bool(repairs))
            yield site

    def _add_reader(self, site: Site, reader: Reader, kept: Tensor, repair: Any) -> None:
        module = self.dense.get_submodule(reader.name)
        weight = module.weight.detach().double()
        blocks = reader.weights(weight)
        merged = blocks[:, kept] if repair is None else torch.einsum("omr,mk->okr", blocks, repair.matrix)
        after, removed = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
        after[:, reader.columns.reshape(-1)] = 0.0
        removed[:, reader.columns.reshape(-1)] = True
        columns = reader.columns[kept.cpu()].reshape(-1)
        after[:, columns] = merged.reshape(len(weight), len(columns), *weight.shape[2:])
        removed[:, columns] = False
        site.before[reader.name], site.after[reader.name], site.removed[reader.name] = weight, after, removed
        if repair is not None and repair.shift is not None and module.bias is not None:
            site.biases[reader.name] = module.bias.detach() + torch.einsum("omr,m->o", blocks, repair.shift)

    def _add_writers(self, site: Site, layer: NodeLayer, kept: Tensor) -> None:
        if type(self.pruner.compensation).writer_update is Compensation.writer_update:
            return
        updates = self.pruner.compensation.writer_update(layer, kept, self.pruner.selection)
        for path, (weight, bias) in updates.items():
            old = self.dense.get_submodule(path).weight.detach().double()
            site.before[path], site.after[path] = old, weight.double().reshape(old.shape)
            site.removed[path] = torch.zeros_like(old, dtype=torch.bool)
            if bias is not None:
                site.biases[path] = bias


CBS = "CBS objective"
CALIBRATION_LOSS = "loss increase on the calibration samples"


def node_predictions(layer: NodeLayer, kept: Tensor, kernel: object = None, repaired: bool = True) -> dict[str, float]:
    """What spectral pruning, DPPs and sparse-lq theory say of keeping the nodes ``kept``.

    Args:
        layer: the group in the dense network.
        kept: sorted indices.
        kernel: a ``DPPKernel``; None takes the RBF kernel with the median heuristic.
        repaired: whether the readers were fitted to the kept nodes, as spectral pruning's losses suppose.
    """
    spectral = SpectralSelection(constraint="off").report(layer, kept)
    norms, k = outgoing_norms(layer, Q)[None], len(kept)
    own = kernel if isinstance(kernel, DPPKernel) else DPPKernel(beta="median")
    losses = {
        "spectral input information loss": spectral["input_loss"],
        "spectral output information loss": spectral["output_loss"],
        "spectral bound on the information loss": spectral["loss_bound"],
    }
    told = "" if repaired else ", without its reconstruction"
    return {name + told: value for name, value in losses.items()} | {
        "degrees of freedom per kept node": spectral["degrees_of_freedom_at_lambda"] / k,
        "DPP negative log determinant": negative_log_determinant(own(layer.covariance, layer.moments[0].count), kept),
        "lq tail bound": float(tail_bound(norms, Q, k)[0]),
        "PQ index": _pq_excess(norms[0], k),
    }


@torch.no_grad()
def output_errors(dense: nn.Module, sites: Sequence[Site], calibration: Calibration) -> dict[str, float]:
    """||Delta x|| / ||W x|| over the samples for what the changed modules of each layer compute, in one pass."""
    sums = {site.name: [0.0, 0.0] for site in sites}
    by_path: dict[str, list[Site]] = {}
    for site in sites:
        for path in site.before:
            by_path.setdefault(path, []).append(site)

    def listener(path: str) -> Callable[[Tensor], None]:
        module = dense.get_submodule(path)

        def listen(read: Tensor) -> None:
            for site in by_path[path]:
                for place, weight in enumerate((site.after[path] - site.before[path], site.before[path])):
                    written = _linear(module, read, weight.to(read))
                    sums[site.name][place] += float(written.double().square().sum())

        return listen

    with evaluating(dense), listening(dense, {path: listener(path) for path in by_path}):
        for inputs, _ in calibration.batches():
            dense(inputs)
    return {name: math.sqrt(change / whole) if whole > 0 else 0.0 for name, (change, whole) in sums.items()}


@torch.no_grad()
def mean_loss(model: nn.Module, calibration: Calibration) -> float:
    """Mean loss of a network in evaluation mode over the calibration samples."""
    total = 0.0
    with evaluating(model):
        for inputs, labels in calibration.batches():
            total += float(sample_losses(model(inputs), labels).double().sum())
    return total / len(calibration)


def _linear(module: nn.Module, read: Tensor, weight: Tensor) -> Tensor:
    """What ``module`` computes with another weight and without bias."""
    if isinstance(module, nn.Linear):
        return nn.functional.linear(read, weight)
    assert isinstance(module, nn.Conv2d)
    return module._conv_forward(read, weight, None)


def _inputs(module: nn.Module) -> int:
    """Inputs of one output unit; none that count for a grouped convolution, whose units read different ones."""
    return module.weight[0].numel() if getattr(module, "groups", 1) == 1 else LARGEST_MOMENT + 1


def _tail(rows: Tensor, counts: Tensor, bound: Tensor) -> float:
    """Root of the summed squares over rows, nothing for rows that stay whole and the norm for empty ones."""
    bound = torch.where(counts == rows.shape[1], 0.0, torch.where(counts == 0, rows.norm(dim=1), bound))
    return float(bound.square().sum().sqrt())


def _pq_excess(values: Tensor, kept: int) -> float:
    return (float(pq_retained(values[None])[0]) - kept) / len(values)


def _drop(before: float, after: float | None) -> float | None:
    return None if after is None else before - after


def _row(theory: str, layer: str | None, predicted: float, measured: float | None, unit: str | None) -> dict[str, Any]:
    return {"theory": theory, "layer": layer, "predicted": predicted, "measured": measured, "unit": unit}
