"""What a cell needs before it prunes: the trained dense network and calibration samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.data.splits import Data
from benchmarks.records.keys import dense_key
from benchmarks.storage.paths import Paths
from benchmarks.training import dense
from benchmarks.training.optimisation import TrainerSettings
from methods.errors import Collapsed
from methods.layers.statistics import Calibration
from methods.seeds import stream


def trained_network(config: Mapping[str, Any], data: Data, paths: Paths) -> dense.Dense:
    """The dense network of the cell that ``config`` describes."""
    trained = dense.dense_network(
        config["model"],
        data,
        TrainerSettings.from_config(config["trainer"]["train"], "trainer.train"),
        config["seed"],
        paths.cache,
        dense_key(config),
        config["dense"]["checkpoint"],
    )
    if trained.history.collapsed:
        raise Collapsed(f"the dense network: {trained.history.collapsed}")
    return trained


def calibrate(data: Data, section: Mapping[str, Any], seed: int) -> Calibration:
    """The training samples that pruning may look at: drawn by ``seed``, never from the validation or test split."""
    total = len(data.train)
    size = min(section["samples"] or total, total)
    indices = torch.randperm(total, generator=stream(seed, "calibration"))[:size].sort().values
    return Calibration(data.train.to_inputs(indices), data.train.targets[indices], indices, seed, section["batch_size"])
