r"""Compare what theories predict about one pruning with its effect, layer by layer and for the whole network.

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
repair that is what the papers evaluate. Labels for the Fisher are drawn from the network's own predictions. What is
measured is the increase of the loss on the calibration samples and the relative error of the outputs of the layer (for
nodes: of its readers). For the network, predictions are summed over layers, CBS's with all cross terms. Comparing
theories beyond their own methods is our extension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.curvature.flatness import top_eigenpair
from methods.curvature.kfac import Factors, factorable, kfac_factors
from methods.layers.gradients import draw_labels, per_sample_gradients, sample_losses
from methods.layers.statistics import Calibration
from methods.network.reading import evaluating
from methods.progress import track
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.seeds import stream
from methods.theories.formulas import (
    diagonal_increase,
    fisher_increase,
    group_increase,
    kronecker_increase,
    radius_increase,
)
from methods.theories.sites import Site, output_errors, sites_of

GRADIENT_BYTES = 2**29  # of the single-sample gradients of one layer
MOST_GRADIENTS = 256
OBS_DAMPING = 1e-4
LOSS, ERROR = "loss", "relative output error"
CBS = "CBS objective"
CALIBRATION_LOSS = "loss increase on the calibration samples"


class TheoryEvaluation:
    """Evaluates every theory that applies to one pruned network.

    Args:
        dense: the network before pruning.
        pruned: the pruned network.
        pruner: the parts that pruned it.
        calibration: the samples that the pruner used.
    """

    def __init__(self, dense: nn.Module, pruned: Pruned, pruner: Pruner, calibration: Calibration) -> None:
        self.dense, self.pruned, self.pruner, self.calibration = dense, pruned, pruner, calibration

    @property
    def applicable(self) -> bool:
        """Whether the weights are those of one pruning: one step, no rewinding, single weights or nodes."""
        once = len(self.pruned.steps) == 1 and self.pruner.schedule.rewind == "none"
        return once and self.pruner.selection.unit in ("node", "edge")

    def sites(self) -> Iterator[Site]:
        """The change of every layer."""
        return sites_of(self.dense, self.pruned, self.pruner, self.calibration)

    def rows(self, score: Callable[[nn.Module], float | None] | None = None) -> list[dict[str, Any]]:
        """Return predictions in the form of a record: theory, layer (None for the network), predicted, measured, unit.

        Args:
            score: accuracy of a network; if given, a row compares it with the loss on the calibration samples.
        """
        if not self.applicable:
            return []
        sites = [
            site
            for site in sites_of(self.dense, self.pruned, self.pruner, self.calibration)
            if bool(site.flat_change.any())
        ]
        if not sites:
            return []
        errors = output_errors(self.dense, sites, self.calibration)
        reference = mean_loss(self.dense, self.calibration)
        dense_score = score(self.dense) if score else None
        slopes, factors = torch.zeros((), dtype=torch.float64), self._factors(sites)
        result: list[dict[str, Any]] = []
        totals: dict[tuple[str, str | None], float] = {}
        increases = []
        for site in track(sites, "theories of each layer"):
            alone = site.network(self.dense)
            increase = mean_loss(alone, self.calibration) - reference
            increases.append(increase)
            own_slopes, predicted = self._in_loss(site, factors)
            slopes = slopes + own_slopes
            every: dict[str, tuple[float, str | None]] = {name: (value, LOSS) for name, value in predicted.items()}
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
        totals[CBS, LOSS] = fisher_increase(slopes)
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


@torch.no_grad()
def mean_loss(model: nn.Module, calibration: Calibration) -> float:
    """Mean loss of a network in evaluation mode over the calibration samples."""
    total = 0.0
    with evaluating(model):
        for inputs, labels in calibration.batches():
            total += float(sample_losses(model(inputs), labels).double().sum())
    return total / len(calibration)


def _drop(before: float, after: float | None) -> float | None:
    return None if after is None else before - after


def _row(theory: str, layer: str | None, predicted: float, measured: float | None, unit: str | None) -> dict[str, Any]:
    return {"theory": theory, "layer": layer, "predicted": predicted, "measured": measured, "unit": unit}
