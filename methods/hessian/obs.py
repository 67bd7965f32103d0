"""Optimal Brain Surgeon with the empirical Fisher: WoodFisher, WoodTaylor, M-FAC and the exact group update.

Papers: Hassibi & Stork, NIPS 1992 (OBS); Singh & Alistarh, "WoodFisher", NeurIPS 2020; Frantar, Kurtic & Alistarh,
"M-FAC", NeurIPS 2021. With single-sample gradients as the rows of G (N, d) and damping lambda,

    F     = lambda I + G^T G / N
    dL_q  = w_q^2 / (2 [F^-1]_qq)                       saliency, in units of the loss
    dw    = -(w_q / [F^-1]_qq) F^-1 e_q                 update of the rest: zeroes q, minimises dw^T F dw

For a set S the published pruners add up the single updates and then mask, which is not the minimiser and can be worse
than no update. The exact one (K = the kept weights) is ``dw_K = F_KK^-1 F_KS w_S``.

F^-1 (d, d) is never formed where d > N. With the Cholesky factor of ``N lambda I + G G^T = L L^T`` and ``V = L^-1 G``

    F^-1 = (I - V^T V) / lambda,      [F^-1]_qq = (1 - ||V e_q||^2) / lambda

which is M-FAC's static algorithm: the Cholesky factor is unique, so its vectors h_i / sqrt(den_i) are the rows of
V / sqrt(lambda); here they come from matrix products in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from methods.compensation import Compensation, OwnRidge
from methods.curvature.damping import checked_damping
from methods.errors import BadInput
from methods.layers.gradients import Gradients, Samples, shared_gradients
from methods.layers.seen import EdgeLayer
from methods.progress import track
from methods.selection import Selection

CHUNK = 4096  # columns of G that are converted to float64 at a time
UPDATES = ("sum", "group")
Setting = TypeVar("Setting")


def woodfisher_inverse(gradients: Tensor, damping: float, at_once: int = 64) -> Tensor:
    """(lambda I + G^T G / N)^-1 (d, d) by WoodFisher's recursion over the gradients.

    With ``at_once`` = 1 this is the paper's F^-1 <- F^-1 - c c^T / (N + g^T c), c = F^-1 g; larger blocks apply the
    same identity to several gradients. N is the final count from the first step on, so the order does not matter.
    """
    total, size = gradients.shape
    inverse = torch.eye(size, dtype=torch.float64, device=gradients.device) / damping
    for part in track(gradients.split(at_once), "inverse Fisher, gradients"):
        part = part.double()
        images = part @ inverse
        small = total * torch.eye(len(part), dtype=inverse.dtype, device=inverse.device) + part @ images.T
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(small), images, upper=False)
        inverse.addmm_(half.T, half, alpha=-1)
    return inverse


def float64_columns(gradients: Tensor, where: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Column indices and float64 columns of G, a few thousand at a time; only those in the mask ``where``."""
    columns = torch.arange(gradients.shape[1], device=gradients.device)
    columns = columns if where is None else columns[where]
    for part in columns.split(CHUNK):
        whole = len(part) > 0 and int(part[-1] - part[0]) + 1 == len(part)
        picked = gradients[:, int(part[0]) : int(part[-1]) + 1] if whole else gradients[:, part]
        yield part, picked.double()


def gram(gradients: Tensor, where: Tensor | None = None, bands: int = 4) -> Tensor:
    """G_K G_K^T (N, N) in float64 over the columns in ``where``; only one half is computed, in ``bands`` of rows."""
    total = len(gradients)
    result = torch.zeros(total, total, dtype=torch.float64, device=gradients.device)
    width = -(-total // bands)
    chunks = -(-(gradients.shape[1] if where is None else int(where.sum())) // CHUNK)
    for _, part in track(float64_columns(gradients, where), "products of gradients", chunks):
        for start in range(0, total, width):
            stop = start + width
            result[start:stop, :stop].addmm_(part[start:stop], part[:stop].T)
    return result.tril_() + result.tril(-1).T


class InverseFisher:
    """F^-1 = (lambda I + G^T G / N)^-1 as an operator.

    Args:
        gradients: G (N, d), any precision; arithmetic is float64 (at damping 1e-5 float32 would lose the result).
        damping: lambda > 0.
    """

    def __init__(self, gradients: Tensor, damping: float) -> None:
        self.gradients, self.damping = gradients, checked_damping(damping, "selection", positive=True)
        self._diagonal: Tensor | None = None
        total, size = gradients.shape
        self._inverse = woodfisher_inverse(gradients, damping) if size <= total else None
        if self._inverse is None:
            system = gram(gradients)
            system.diagonal().add_(total * damping)
            self._factor = torch.linalg.cholesky(system)

    def product(self, vector: Tensor) -> Tensor:
        """F^-1 x (d,). In the precision of ``vector``: float32 in, where G is float32 too, is fast and less exact."""
        if self._inverse is not None:
            return (self._inverse @ vector.double()).to(vector)
        if vector.dtype == self.gradients.dtype:
            solved = torch.cholesky_solve((self.gradients @ vector).double()[:, None], self._factor).squeeze(1)
            return torch.addmv(vector, self.gradients.T, solved.to(vector), alpha=-1) / self.damping
        image = vector.new_zeros(len(self.gradients))
        for columns, part in float64_columns(self.gradients):
            image += part @ vector[columns]
        solved = torch.cholesky_solve(image[:, None], self._factor).squeeze(1)
        correction = torch.cat([solved @ part for _, part in float64_columns(self.gradients)])
        return (vector - correction) / self.damping

    def diagonal(self) -> Tensor:
        """Diag F^-1 (d,), float64, positive; computed once."""
        if self._diagonal is None:
            self._diagonal = self._compute_diagonal()
        return self._diagonal

    def _compute_diagonal(self) -> Tensor:
        if self._inverse is not None:
            return self._inverse.diagonal().clone()
        norms = []
        chunks = -(-self.gradients.shape[1] // CHUNK)
        for _, part in track(float64_columns(self.gradients), "diagonal of the inverse Fisher", chunks):
            norms.append(torch.linalg.solve_triangular(self._factor, part, upper=False).square_().sum(0))
        share = 1 - torch.cat(norms)  # of a weight's prior variance 1 / lambda that the gradients leave
        return share.clamp_min(torch.finfo(torch.float64).eps) / self.damping


def obs_saliency(inverse: InverseFisher, weight: Tensor, first_order: bool = False) -> Tensor:
    """(d,) w_q^2 / (2 [F^-1]_qq), the increase of the loss by removing q and updating the rest.

    With ``first_order`` WoodTaylor's (w_q - [F^-1 g]_q)^2 / (2 [F^-1]_qq), g the mean gradient; its constant
    -1/2 g^T F^-1 g, the same for every q, is left out.
    """
    if first_order:
        weight = weight - inverse.product(inverse.gradients.mean(0, dtype=torch.float64))
    return weight.square() / (2 * inverse.diagonal())


def sum_update(inverse: InverseFisher, weight: Tensor, pruned: Tensor, first_order: bool = False) -> Tensor:
    """(d,) the sum over the set ``pruned`` of the single-weight OBS updates, as WoodFisher and M-FAC publish it.

    The result does not zero the set: mask afterwards. With ``first_order`` the step -F^-1 g is taken once.
    """
    free = torch.zeros_like(weight)
    if first_order:
        free = inverse.product(inverse.gradients.mean(0, dtype=torch.float64))
    steps = torch.where(pruned, (weight - free) / inverse.diagonal(), 0.0)
    return -free - inverse.product(steps)


def group_update(
    gradients: Tensor, weight: Tensor, pruned: Tensor, damping: float, first_order: bool = False
) -> Tensor:
    """(d,) the minimiser of 1/2 dw^T F dw (+ g^T dw with ``first_order``) among all dw that zero the set ``pruned``.

    d_K = F_KK^-1 (F_KS w_S - g_K), in the smaller of two spaces (g_K = G_K^T 1 / N):

        d_K = G_K^T (N lambda I + G_K G_K^T)^-1 (G_S w_S - 1)        N x N
        d_K = (lambda I + G_K^T G_K / N)^-1 G_K^T (G_S w_S - 1) / N  |K| x |K|
    """
    total, kept = len(gradients), ~pruned
    target = torch.zeros(total, dtype=torch.float64, device=gradients.device)
    for columns, part in float64_columns(gradients, pruned):
        target += part @ weight[columns]
    if first_order:
        target -= 1
    update = torch.where(pruned, -weight, 0.0)
    if int(kept.sum()) <= total:
        columns = kept.nonzero().squeeze(1)
        part = gradients[:, columns]
        system = gram(part.T) / total
        system.diagonal().add_(damping)
        update[columns] = _solve(system, part.double().T @ target / total)
        return update
    system = gram(gradients, kept)
    system.diagonal().add_(total * damping)
    solved = _solve(system, target)
    for columns, part in float64_columns(gradients, kept):
        update[columns] = solved @ part
    return update


def _solve(system: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[:, None], torch.linalg.cholesky(system)).squeeze(1)


class OBSSelection(Selection[EdgeLayer]):
    """Keeps the weights with the largest OBS saliency under the damped empirical Fisher.

    Args:
        samples: number of single-sample gradients N; None takes the whole calibration set.
        damping: lambda. Large values turn OBS into magnitude pruning; WoodTaylor needs about 1e-1.
        block: size of the Fisher's diagonal blocks inside a layer (WoodFisher: 12288), ``layer`` for one block per
            layer, or ``full`` for one over all layers (WoodFisher's MLPNet experiments).
        labels: ``true`` (as published) or ``sampled``.
        first_order: WoodTaylor, for networks that have not converged.
        memory_gb: bound on the memory of the gradients.
    """

    additive = True

    def __init__(
        self,
        samples: int | None = None,
        damping: float = 1e-5,
        block: int | str = 12288,
        labels: str = "true",
        first_order: bool = False,
        memory_gb: float = 4.0,
    ) -> None:
        self.settings = Samples(samples, labels, memory_gb)
        self.damping = checked_damping(damping, "selection", positive=True)
        self.block, self.first_order = _checked_block(block), first_order

    def select_all(self, layers: Sequence[EdgeLayer], counts: Mapping[str, int | Tensor]) -> dict[str, Tensor]:
        """As every selection with scores; a full Fisher must know all layers first."""
        layers[0].shared.setdefault("layers", layers)
        return super().select_all(layers, counts)

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) predicted increase of the loss."""
        layers = layer.shared.get("layers", [layer])
        key = ("OBS", tuple(each.name for each in layers), self.settings, self.damping, self.block, self.first_order)
        if key not in layer.shared:
            gradients = shared_gradients(layers, self.settings)
            weight = torch.cat([each.weight.flatten() for each in layers])
            blocks = fisher_blocks(gradients, self.block)
            keep = len(blocks) * len(gradients.matrix) * 4 <= gradients.matrix.shape[1]  # factors smaller than G
            parts = []
            for block in track(blocks, "inverse Fisher"):
                inverse = InverseFisher(gradients.matrix[:, block], self.damping)
                parts.append(obs_saliency(inverse, weight[block], self.first_order))
                if keep:
                    layer.shared[_inverse_key(layers, self.settings, self.damping, block)] = inverse
            saliency = torch.cat(parts)
            layer.shared[key] = {each.name: saliency[gradients.columns[each.name]] for each in layers}
        return layer.shared[key][layer.name].view_as(layer.weight)

    def report(self, layer: EdgeLayer, kept: Tensor) -> dict[str, float]:
        """Sum of the removed weights' saliencies: exact for one weight, an approximation for a set."""
        return {"predicted_increase": float(self.scores(layer)[layer.live & ~kept].sum())}


class OBSCompensation(Compensation):
    """Survivors take over what the removed weights did, under the damped empirical Fisher; for any edge selection.

    Args:
        update: ``sum`` of the single-weight updates (WoodFisher, M-FAC) or the exact ``group`` update (CBS-U).
        scale: factor on the update of the survivors (WoodFisher's ResNet-50 uses 0.9).
        samples, damping, block, labels, first_order, memory_gb: as for :class:`OBSSelection`. What is None is taken
            from the selection where it has such settings, so that both use the same gradients; otherwise N = the
            calibration set, damping 1e-5, one block over all layers, true labels, no first-order term, 4 GiB.
    """

    units = frozenset({"edge"})

    def __init__(
        self,
        update: str = "sum",
        scale: float = 1.0,
        samples: int | None = None,
        damping: float | None = None,
        block: int | str | None = None,
        labels: str | None = None,
        first_order: bool | None = None,
        memory_gb: float | None = None,
    ) -> None:
        if update not in UPDATES:
            raise BadInput(f"compensation.update={update} is unknown; choose sum (as published) or group (exact)")
        if damping is not None:
            checked_damping(damping, "compensation", positive=True)
        self.update, self.scale = update, scale
        self.damping, self.first_order = damping, first_order
        self.block = None if block is None else _checked_block(block)
        self.samples, self.labels, self.memory_gb = samples, labels, memory_gb

    def edge_weights(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """New (out, d) weights of every layer, exactly zero off the mask."""
        if not layers:
            return {}
        fisher = selection if hasattr(selection, "settings") else None  # others' damping and block mean something else
        theirs = getattr(fisher, "settings", None) or Samples()
        settings = Samples(
            _either(self.samples, theirs.samples),
            _either(self.labels, theirs.labels),
            _either(self.memory_gb, theirs.memory_gb),
        )
        damping = _either(self.damping, getattr(fisher, "damping", 1e-5))
        first_order = bool(_either(self.first_order, getattr(fisher, "first_order", False)))
        block = _either(self.block, getattr(fisher, "block", "full"))
        layers = layers[0].shared.get("layers", layers)  # layers that lost nothing take over from the others, too
        gradients = shared_gradients(layers, settings)
        weight = torch.cat([layer.weight.flatten() for layer in layers])
        kept = torch.cat([masks[layer.name].flatten() for layer in layers])
        for part in track(fisher_blocks(gradients, block), "OBS update"):
            if bool(kept[part].all()) and not first_order:
                continue
            if self.update == "group":
                update = group_update(gradients.matrix[:, part], weight[part], ~kept[part], damping, first_order)
            else:
                inverse = layers[0].shared.get(_inverse_key(layers, settings, damping, part))
                inverse = inverse or InverseFisher(gradients.matrix[:, part], damping)
                update = sum_update(inverse, weight[part], ~kept[part], first_order)
            weight[part] += self.scale * update
        weight = torch.where(kept, weight, 0.0)
        return {layer.name: weight[gradients.columns[layer.name]].view_as(layer.weight) for layer in layers}


def fisher_blocks(gradients: Gradients, block: int | str) -> list[slice]:
    """The columns of each diagonal block of the Fisher: over all layers, per layer, or chunks inside each layer."""
    if block == "full":
        return [slice(0, gradients.matrix.shape[1])]
    layers = list(gradients.columns.values())
    if block == "layer":
        return layers
    return [
        slice(a, min(a + int(block), part.stop)) for part in layers for a in range(part.start, part.stop, int(block))
    ]


def _inverse_key(layers: Sequence[EdgeLayer], settings: Samples, damping: float, block: slice) -> tuple:
    return ("inverse Fisher", tuple(layer.name for layer in layers), settings, damping, block.start, block.stop)


def _checked_block(block: int | str) -> int | str:
    if block in ("layer", "full") or (isinstance(block, int) and block > 0):
        return block
    raise BadInput(
        f"block={block} is unknown; choose a size such as 12288, or layer (one per layer), or full (one in all)"
    )


def _either(mine: Setting | None, theirs: Setting) -> Setting:
    return theirs if mine is None else mine
