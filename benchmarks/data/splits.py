"""The training, validation and test split of a cell.

What lies in memory is a :class:`benchmarks.data.split.Split`, what does not a
:class:`benchmarks.data.pixels.LargeSplit`; both give the same batches. Ids of tokens are a
:class:`benchmarks.data.sequences.TokenSplit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.augment import Augmentation
from benchmarks.data.pixels import split_of
from benchmarks.data.raw import Raw, Text, stored_shape
from benchmarks.data.readers import reader_of
from benchmarks.data.sequences import TokenSplit
from benchmarks.data.split import Split
from benchmarks.data.tokens import Tokens
from benchmarks.settings.tasks import TEXT_TASKS
from benchmarks.storage.paths import require_name
from methods.errors import BadInput
from methods.seeds import stream

__all__ = ["Data", "Split", "carve", "load"]


@dataclass(eq=False)
class Data:
    """A data set ready for one cell.

    ``origin`` and ``checksum`` say what was really read: a local folder may hold other bytes than the hub does.
    ``skipped`` is the number of images that could not be decoded and were left out; None where such are refused.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    shape: tuple[int, ...]
    task: str = "classification"
    origin: str = ""
    checksum: str = ""
    skipped: int | None = None
    text: Text | None = None

    @property
    def tokens(self) -> Tokens | None:
        """What the inputs are where they are ids of tokens."""
        return None if self.text is None else self.text.tokens


def load(cfg: Mapping[str, Any], seed: int, cache: Path) -> Data:
    """Read the data set that ``cfg``, the configuration's ``dataset`` section, describes; carve its validation split.

    Validation samples are drawn from the training set by ``seed``, unless the data set has a split of its own for them.
    The test split is the same for every seed.

    Args:
        cfg: see conf/dataset/*.yaml.
        seed: the cell's seed.
        cache: folder for decoded data.

    Raises:
        BadInput: a folder, a file or a value is not what was expected.
    """
    from omegaconf import DictConfig, OmegaConf

    if isinstance(cfg, DictConfig):
        cfg = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping's is a dict
    for key in ("name", "images"):  # parts of paths in the cache
        if cfg.get(key) is not None:
            require_name(cfg[key], f"dataset.{key}")
    raw = reader_of(cfg)(cfg, Path(cache))
    shape = tuple(cfg["shape"])
    if tuple(raw.train_inputs.shape[1:]) != stored_shape(cfg):
        raise BadInput(f"dataset.shape={list(shape)}, but {cfg['name']} has {list(raw.train_inputs.shape[1:])}.")
    held_out: tuple[Any, Tensor]
    if raw.validation_inputs is not None and raw.validation_targets is not None:
        train = _drawn(len(raw.train_inputs), cfg.get("limit"), seed)
        held_out = raw.validation_inputs, raw.validation_targets
    else:
        train, drawn = carve(len(raw.train_inputs), cfg["validation"], seed, cfg.get("limit"))
        held_out = raw.train_inputs[drawn], raw.train_targets[drawn]
    test = _fixed_subset(len(raw.test_inputs), cfg.get("limit_test"))
    how: dict[str, Any] = {"mean": cfg["mean"], "std": cfg["std"], "levels": cfg.get("levels")}
    how["window"] = shape[1:] if cfg.get("stored") else None
    augmentation = _augmentation(cfg.get("augment"))
    if (raw.text is not None) != (cfg.get("task") in TEXT_TASKS):
        raise BadInput(f"dataset.task={cfg.get('task')} does not fit what {cfg['reader']} reads")

    def split(inputs: Any, targets: Tensor, augmentation: Augmentation | None = None) -> Split:
        if raw.text is not None:
            return TokenSplit(inputs, targets, tokens=raw.text.tokens)
        return split_of(inputs, targets, **how, augmentation=augmentation)

    return Data(
        name=cfg["name"],
        train=split(raw.train_inputs[train], raw.train_targets[train], augmentation),
        validation=split(*held_out),
        test=split(raw.test_inputs[test], raw.test_targets[test]),
        classes=_classes(cfg, raw),
        shape=shape,
        task=cfg.get("task", "classification"),
        origin=raw.origin,
        checksum=raw.checksum,
        skipped=raw.skipped,
        text=raw.text,
    )


def _classes(cfg: Mapping[str, Any], raw: Raw) -> int:
    """Number of outputs: what the configuration says, else what the labels or the tokenizer have."""
    if raw.text is None or not raw.text.tokens.each:
        return int(cfg["classes"] or int(max(raw.train_targets.max(), raw.test_targets.max())) + 1)
    size = raw.text.tokenizer.size
    if cfg["classes"] not in (None, size):
        raise BadInput(
            f"dataset.classes={cfg['classes']}, but dataset.tokenizer={cfg['tokenizer']} has {size} tokens for "
            f"{cfg['name']}\ntype dataset.classes={size}, or null"
        )
    return size


def carve(count: int, fraction: float, seed: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Sorted indices of the training and of the validation samples, out of ``count``, drawn by ``seed``.

    With ``limit`` only so many samples are used, training and validation together.
    """
    used = _within("dataset.limit", count, limit)
    held_out = round(fraction * used)
    if not 0 < held_out < used:
        raise BadInput(
            f"dataset.validation={fraction} leaves {held_out} of {used} samples for validation and "
            f"{used - held_out} for training; expected some for each, for instance dataset.validation=0.1."
        )
    order = torch.randperm(count, generator=stream(seed, "data", "validation"))
    return order[held_out:used].sort().values, order[:held_out].sort().values


def _drawn(count: int, limit: int | None, seed: int) -> Tensor:
    """Sorted indices of the training samples where validation is a split of its own."""
    used = _within("dataset.limit", count, limit)
    return torch.randperm(count, generator=stream(seed, "data", "validation"))[:used].sort().values


def _fixed_subset(count: int, limit: int | None) -> Tensor | slice:
    used = _within("dataset.limit_test", count, limit)
    if used == count:
        return slice(None)
    # The same samples for every seed, as with the whole test split.
    return torch.randperm(count, generator=stream(0, "data", "limit_test"))[:used].sort().values


def _within(key: str, count: int, limit: int | None) -> int:
    if limit is None:
        return count
    if limit < 1:
        raise BadInput(f"{key}={limit}; expected a number of samples, at least 1, or null for all.")
    return min(limit, count)


def _augmentation(value: bool | Mapping[str, Any] | None) -> Augmentation | None:
    if not value:
        return None
    settings = {} if value is True else dict(value)
    if not settings.keys() <= {"crop", "flip", "resized_crop", "jitter"}:
        raise BadInput(
            f"dataset.augment={settings}; expected null or some of crop (pixels), flip (true, false), resized_crop "
            "(least and largest share) and jitter."
        )
    if settings.get("resized_crop"):
        low, high = settings["resized_crop"]
        settings = {**settings, "resized_crop": (low, high)}
    augmentation = Augmentation(**settings)
    if augmentation.crop < 0:
        raise BadInput(f"dataset.augment.crop={augmentation.crop}; expected a number of pixels, 0 or more.")
    return augmentation
