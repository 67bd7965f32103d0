"""What the process that measures the memory of pruning does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch import nn


def pruning_task(request: Mapping[str, Any]) -> Callable[[], object]:
    """Pruning as the cell in ``request`` does it, with its dense network and samples already there."""
    from benchmarks.cells.parts import build_pruner
    from benchmarks.cells.preparation import calibrate, trained_network
    from benchmarks.data.splits import load
    from benchmarks.storage.paths import Paths
    from methods.budgets.budget import Budget
    from methods.seeds import derive_seed

    config = request["config"]
    paths, seed = Paths.of(config["paths"]), config["seed"]
    data = load(config["dataset"], seed, paths.cache)
    model = trained_network(config, data, paths).model
    calibration = calibrate(data, config["calibration"], seed)
    pruner, budget = build_pruner(config), Budget.parse(config["budget"])
    with suppress(Exception):  # parts may be made for this network alone; then imports are measured too
        pruner.prune(*_tiny(), budget)
    return lambda: pruner.prune(model, calibration, budget, derive_seed(seed, "prune"))


def _tiny() -> tuple[nn.Module, Any]:
    """A network and samples so small that pruning it only loads what pruning needs once."""
    import torch

    from methods.layers.statistics import Calibration

    layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    numbers = torch.arange(32)
    return layers, Calibration(torch.sin(numbers[:, None] * torch.arange(1, 9)), numbers % 2, numbers)
