"""What a cell needs before it prunes: the trained dense network and calibration samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.data.splits import Data
from benchmarks.data.text import excerpt
from benchmarks.records.keys import dense_key
from benchmarks.storage.checkpoint import checksum, to_bytes
from benchmarks.storage.paths import Paths
from benchmarks.storage.pretrained import portable
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
        paths.dense,
    )
    if trained.history.collapsed:
        raise Collapsed(f"the dense network: {trained.history.collapsed}")
    return trained


def calibrate(data: Data, section: Mapping[str, Any], seed: int) -> Calibration:
    """The training samples that pruning may use: drawn by ``seed``, never from the validation or test split.

    Padded sequences come in batches of about one length, the batches in random order.
    """
    total = len(data.train)
    size = min(section["samples"] or total, total)
    indices = torch.randperm(total, generator=stream(seed, "calibration"))[:size].sort().values
    padding = None if data.tokens is None else data.tokens.padding
    if padding is not None:
        lengths = (data.train.inputs[indices] != padding).sum(1)
        batches = indices[lengths.argsort(stable=True)].split(section["batch_size"])
        full = size // section["batch_size"]
        order = torch.randperm(full, generator=stream(seed, "calibration", "order")).tolist()
        indices = torch.cat([*(batches[i] for i in order), *batches[full:]])
    inputs, labels = data.train.to_inputs(indices), data.train.targets[indices]
    return Calibration(inputs, labels, indices, seed, section["batch_size"], padding, section.get("memory"))


def calibration_facts(data: Data, calibration: Calibration) -> dict[str, Any] | None:
    """What a record says of calibration by text, since other texts give other results; None where it is none."""
    if data.text is None:
        return None
    return {
        "sequences": len(calibration),
        "tokens": calibration.tokens,
        "seed": calibration.seed,
        "origin": data.origin,
        "digest": checksum(to_bytes({"ids": calibration.inputs}))[:16],
        "begins": excerpt(data.text.tokenizer, calibration.inputs[0]),
        "tokenizer": portable(data.text.tokenizer.name),
    }
