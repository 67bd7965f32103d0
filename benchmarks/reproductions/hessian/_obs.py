"""What the reproductions of weight pruning by curvature share: published weights, and one set of gradients for it all.

A sweep's cell computes the gradients again for every sparsity. Here they, and the inverse Fisher, are computed once per
network and calibration set; the masks and weights are those that the pruner makes of the same parts.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.compensation import Compensation
from methods.errors import BadInput
from methods.hessian.obs import OBSCompensation
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration, Moments, collect_moments
from methods.network.parameters import weight_of
from methods.network.reading import patch_rows
from methods.pruner import derive
from methods.seeds import stream
from methods.selection import Selection, largest_mask

FOLDER = "SECATEURS_CHECKPOINTS"
REPOSITORY = "github.com/IST-DASLab/WoodFisher"


def published_weights(name: str, theirs: str) -> Path:
    """The safetensors file ``name`` in the folder that the environment variable SECATEURS_CHECKPOINTS names.

    Args:
        name: the name of our file.
        theirs: path of the published file in the WoodFisher repository.

    Raises:
        BadInput: if the variable is not set, or the folder has no such file.
    """
    folder = os.environ.get(FOLDER)
    path = Path(folder or "") / name
    if folder and path.is_file():
        return path
    problem = f"{path} is not there" if folder else f"{FOLDER} is not set"
    raise BadInput(
        f"{problem}; expected the published weights, {theirs} of {REPOSITORY}: save its state dict as {name} with\n"
        f"safetensors.torch.save_file(torch.load(FILE, weights_only=True)['STATE'], '{name}') and type "
        f"{FOLDER}=FOLDER python -m benchmarks.reproduce ..."
    )


def kept_weights(sparsity: float, size: int) -> int:
    """How many of ``size`` weights stay: the pruned number is rounded down, so at .98 of 32 360 it is 648 that stay."""
    return size - math.floor(sparsity * size + 1e-9)


class OneShot:
    """A trained network whose weights are removed in one shot, time and again, from the same gradients.

    Args:
        model: the dense network; left as it is.
        names: paths of the layers to prune.
        calibration: samples for gradients and losses.
        seed: root of the random streams, as the pruner's.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], calibration: Calibration, seed: int) -> None:
        self.model, self.names, self.calibration, self.seed = model, list(names), calibration, seed
        self.shared: dict[Hashable, Any] = {}
        self.size = sum(weight_of(model.get_submodule(name)).numel() for name in names)

    def layers(self) -> list[EdgeLayer]:
        """The layers with random streams at their beginning, so that no result depends on what was asked before."""
        layers = []
        for name in self.names:
            weight = weight_of(self.model.get_submodule(name))
            live = torch.ones_like(weight, dtype=torch.bool).flatten(1)
            generator = stream(0, derive(self.seed, 0), name)
            collect = _collector(self.model, name, self.calibration)
            layers.append(EdgeLayer(name, self.model, self.calibration, generator, collect, live, self.shared))
        self.shared["layers"] = layers
        return layers

    def masks(self, selection: Selection[EdgeLayer], kept: int) -> dict[str, Tensor]:
        """Which ``kept`` weights of the whole network stay: one ranking by score, or the method's own joint choice."""
        layers = self.layers()
        if type(selection).select_all is not Selection.select_all and not _has_scores(selection):
            counts = {layer.name: kept if number == 0 else 0 for number, layer in enumerate(layers)}
            return selection.select_all(layers, counts)
        scores = torch.cat([selection.scores(layer).flatten() for layer in layers])
        mask = largest_mask(scores[None], kept)[0]
        parts = mask.split([layer.size for layer in layers])
        return {layer.name: part.view_as(layer.live) for layer, part in zip(layers, parts, strict=True)}

    def network(
        self, masks: Mapping[str, Tensor], compensation: Compensation, selection: Selection[EdgeLayer]
    ) -> nn.Module:
        """The network with the masked weights gone and the others updated."""
        weights = compensation.edge_weights(self.layers(), masks, selection)
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, mask in masks.items():
                weight = weight_of(model.get_submodule(name))
                weight.copy_((weights[name] * mask).view_as(weight))
        return model

    def forget(self) -> None:
        """Let the gradients go."""
        self.shared.clear()


def group_obs(damping: float, block: int | str = "full", **others: Any) -> OBSCompensation:
    """The exact update with this damping."""
    return OBSCompensation("group", damping=damping, block=block, **others)


def _has_scores(selection: Selection[EdgeLayer]) -> bool:
    return type(selection).scores is not Selection.scores


def _collector(model: nn.Module, name: str, calibration: Calibration) -> Any:
    def collect() -> Moments:
        return collect_moments(model, {name: (name, patch_rows(model.get_submodule(name)))}, calibration)[name]

    return collect
