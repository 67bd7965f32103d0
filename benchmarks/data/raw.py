"""A data set as its reader returns it, before a cell's splits are made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.tokens import Tokenizer, Tokens
from benchmarks.storage import checkpoint
from methods.errors import BadInput
from methods.seeds import stream


@dataclass(frozen=True)
class Text:
    """What the inputs stand for, where they are token ids.

    Attributes:
        tokens: what a network has to know about them.
        tokenizer: the tokenizer that made them.
        characters_per_token: the characters per token of the test split's text.
    """

    tokens: Tokens
    tokenizer: Tokenizer
    characters_per_token: float


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as it was read: inputs (N, ...) and targets of its splits, where from, and a checksum of it all.

    Inputs are tensors, or :class:`benchmarks.data.pixels.Pixels`. Validation is a split of its own only where the data
    set has one; else it is drawn from the training split. ``skipped`` is the number of images that were left out since
    they could not be decoded; None where such are refused. ``text`` is what ids of tokens stand for.
    """

    train_inputs: Any
    train_targets: Tensor
    test_inputs: Any
    test_targets: Tensor
    origin: str
    checksum: str
    validation_inputs: Any = None
    validation_targets: Tensor | None = None
    skipped: int | None = None
    text: Text | None = None


def stored_shape(cfg: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a raw sample: ``dataset.shape``, or images of ``dataset.stored`` pixels, of which inputs are cut."""
    shape = tuple(cfg["shape"])
    side = cfg.get("stored")
    return (shape[0], side, side) if side else shape


def keep(place: Path, name: str, tensors: dict[str, Tensor], **facts: Any) -> dict[str, Any]:
    """Keep decoded ``tensors`` in the cache; return their checksum, and other ``facts`` that are kept with them.

    Raises:
        BadInput: the folder cannot be written.
    """
    facts = {"checksum": checksum_of(tensors), **facts}
    try:
        checkpoint.save(place, name, tensors, facts)
    except OSError as error:
        raise BadInput(f"the decoded data cannot be written to {place}: {error}\nSet paths.cache.") from error
    return facts


def checksum_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors as a safetensors file."""
    return checkpoint.checksum(checkpoint.to_bytes(tensors))


def hold_out(inputs: Any, targets: Tensor, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Hold out the fraction ``cfg.test`` for testing; the draw belongs to the data set, not to a cell's seed."""
    if not 0 < cfg["test"] < 1:
        raise BadInput(f"dataset.test={cfg['test']}; expected a fraction of the samples, for instance 0.2.")
    order = torch.randperm(len(inputs), generator=stream(0, "data", cfg["name"], "test"))
    held_out = max(1, round(cfg["test"] * len(inputs)))
    test, train = order[:held_out].sort().values, order[held_out:].sort().values
    return {
        "train_inputs": inputs[train],
        "train_targets": targets[train],
        "test_inputs": inputs[test],
        "test_targets": targets[test],
    }


def raw_of(tensors: dict[str, Any], origin: str, text: Text | None = None) -> Raw:
    """The raw data set of tensors in memory, with their checksum."""
    return Raw(**tensors, origin=origin, checksum=checksum_of(tensors), text=text)
