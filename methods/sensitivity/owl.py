"""OWL: layers with more outlying weights stay denser.

Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High Sparsity" (ICML
2024), section 3.2. With Wanda's scores A_ij = |W_ij| ||X_j||_2 of a layer, its outlier ratio is

    D_l = share of A_ij > M mean(A),

and its density lies around the network's by at most 2 lambda between the extremes:

    density_l = density + t_l - mean(t),    t_l = 2 lambda (D_l - min D) / (max D - min D).

In the paper a layer is a transformer block, whose linear layers share one density; here it is each layer by itself, and
densities end at 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.allocation import Allocation
from methods.budgets.budget import Counts, Family
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.selection import Seen, Selection
from methods.unstructured.wanda import WandaSelection


class OWL(Allocation):
    """Densities by the share of a layer's scores that lie far above their mean, whichever scores then select.

    Args:
        M: an outlier exceeds this many times the mean.
        lam: about the largest distance of a layer's density from the network's.
    """

    units = frozenset({"edge"})

    def __init__(self, M: float = 5.0, lam: float = 0.08) -> None:
        if M <= 0 or not 0 <= lam < 0.5:
            raise BadInput(
                f"allocation.M={M:g} and allocation.lam={lam:g}: expected M above 0 and lam in [0, 0.5); "
                "type allocation.M=5 allocation.lam=0.08"
            )
        self.M, self.lam = M, lam

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Densities around that of the network, which rises with s: every layer is empty at s = 0 and full at s = 1."""
        ratios, sizes = [], {}
        for layer in layers:
            if not isinstance(layer, EdgeLayer):
                raise BadInput(
                    "allocation=owl is defined for single weights; use a method with unit edge, or allocation=uniform"
                )
            ratios.append(outlier_ratio(WandaSelection().scores(layer)[layer.live], self.M))
            sizes[layer.name] = int(layer.live.sum())
        shifts = dict(zip(sizes, density_shifts(ratios, self.lam), strict=True))
        bottom, top = -max(shifts.values()), 1 - min(shifts.values())

        def counts(s: float) -> Counts:
            density = bottom + s * (top - bottom)
            shares = {name: min(1.0, max(0.0, density + shift)) for name, shift in shifts.items()}
            return {name: max(1, round(share * sizes[name])) for name, share in shares.items()}

        return counts


def outlier_ratio(scores: Tensor, M: float) -> float:
    """The share of ``scores`` above M times their mean."""
    return float((scores > M * scores.mean()).double().mean())


def density_shifts(ratios: Sequence[float], lam: float) -> list[float]:
    """How far each layer's density exceeds the network's; the sum is 0, and all are 0 if all ratios are equal."""
    values = torch.tensor(ratios, dtype=torch.float64)
    spread = float(values.max() - values.min())
    if spread == 0:
        return [0.0] * len(ratios)
    scaled = 2 * lam * (values - values.min()) / spread
    return (scaled - scaled.mean()).tolist()
