"""Data sets as tensors in memory: the training, validation and test split of a cell, and their batches.

A split is one raw tensor. A batch is one index operation on it, then augmentation and normalisation on the whole batch,
on the device where training happens; nothing is done per sample in Python.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data.augment import Augmentation
from benchmarks.data.readers import reader_of
from benchmarks.storage.paths import require_name
from methods.errors import BadInput
from methods.seeds import stream

# A split whose normalised float32 inputs take less is normalised once instead of batch by batch: the step of a LeNet-5
# is so short that normalising would show in it. Larger images bring networks beside which it does not.
NORMALISE_ONCE_BYTES = 2**28


@dataclass(eq=False)
class Split:
    """Samples of one split, raw, and how they become a network's inputs: (inputs / levels − mean) / std.

    Args:
        inputs: (N, C, H, W) uint8 images, or (N, d) float32 rows.
        targets: (N,) int64 classes, or (N, 1) float32 values.
        mean: per channel, of inputs / levels.
        std: per channel, of inputs / levels.
        levels: the raw value that counts as 1; 255 for uint8, 1 for floats where not given.
        augmentation: what ``batches(augment=True)`` does to raw images; nothing where ``None``.
    """

    inputs: Tensor
    targets: Tensor
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    levels: float | None = None
    augmentation: Augmentation | None = None
    _raw_on: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _normalised_on: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        augment: bool = False,
        device: str | torch.device = "cpu",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go once through the split; the last batch is smaller where the numbers do not divide.

        Args:
            batch_size: samples per batch.
            generator: on the CPU; shuffles, and draws the augmentation. ``None`` keeps the order.
            augment: apply the split's augmentation, if it has one; needs a generator.
            device: where batches are wanted. The whole split moves there at the first call and stays.

        Yields:
            Normalised float32 inputs, which the caller may change in place, and targets.
        """
        device = torch.device(device)
        augmentation = self.augmentation if augment else None
        if generator is None:
            if augmentation is not None:
                raise ValueError("augmentation draws random numbers: give batches() a generator")
            yield from self._in_order(batch_size, device)
            return
        inputs, targets = self._raw(device)
        normalised = None if augmentation else self._normalised(device)
        for rows in torch.randperm(len(self), generator=generator).to(device).split(batch_size):
            if normalised is not None:
                yield normalised.index_select(0, rows), targets.index_select(0, rows)
                continue
            batch = inputs.index_select(0, rows)
            if augmentation is not None:
                batch = augmentation(batch, generator)
            yield self.normalise(batch), targets.index_select(0, rows)

    def to_inputs(self, indices: Tensor | slice) -> Tensor:
        """The normalised inputs of the samples at ``indices``."""
        return self.normalise(self.inputs[indices])

    def normalise(self, raw: Tensor) -> Tensor:
        """A new float32 tensor with the network's inputs for ``raw`` samples."""
        levels = self.levels if self.levels is not None else (1.0 if raw.is_floating_point() else 255.0)
        mean, std = (self._per_channel(value, raw) * levels for value in (self.mean, self.std))
        return raw.to(torch.float32, copy=True).sub_(mean).div_(std)

    def _in_order(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self._raw(device)
        for start in range(0, len(self), batch_size):
            yield self.normalise(inputs[start : start + batch_size]), targets[start : start + batch_size]

    def _raw(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._raw_on:
            self._raw_on[device] = self.inputs.to(device), self.targets.to(device)
        return self._raw_on[device]

    def _normalised(self, device: torch.device) -> Tensor | None:
        if self.inputs.numel() * 4 > NORMALISE_ONCE_BYTES:
            return None
        if device not in self._normalised_on:
            self._normalised_on[device] = self.normalise(self._raw(device)[0])
        return self._normalised_on[device]

    @staticmethod
    def _per_channel(value: float | Sequence[float], raw: Tensor) -> Tensor:
        channels = torch.tensor(value, dtype=torch.float32, device=raw.device)
        return channels.view(-1, *[1] * (raw.dim() - 2)) if channels.dim() else channels


@dataclass(eq=False)
class Data:
    """A data set ready for one cell.

    ``origin`` and ``checksum`` say what was really read: a local folder may hold other bytes than the hub does.
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
    if tuple(raw.train_inputs.shape[1:]) != shape:
        raise BadInput(f"dataset.shape={list(shape)}, but {cfg['name']} has {list(raw.train_inputs.shape[1:])}.")
    held_out: tuple[Tensor, Tensor]
    if raw.validation_inputs is not None and raw.validation_targets is not None:
        train = _drawn(len(raw.train_inputs), cfg.get("limit"), seed)
        held_out = raw.validation_inputs, raw.validation_targets
    else:
        train, drawn = carve(len(raw.train_inputs), cfg["validation"], seed, cfg.get("limit"))
        held_out = raw.train_inputs[drawn], raw.train_targets[drawn]
    test = _fixed_subset(len(raw.test_inputs), cfg.get("limit_test"))
    how = {"mean": cfg["mean"], "std": cfg["std"], "levels": cfg.get("levels")}
    return Data(
        name=cfg["name"],
        train=Split(
            raw.train_inputs[train], raw.train_targets[train], **how, augmentation=_augmentation(cfg.get("augment"))
        ),
        validation=Split(*held_out, **how),
        test=Split(raw.test_inputs[test], raw.test_targets[test], **how),
        classes=cfg["classes"] or int(max(raw.train_targets.max(), raw.test_targets.max())) + 1,
        shape=shape,
        task=cfg.get("task", "classification"),
        origin=raw.origin,
        checksum=raw.checksum,
    )


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
    if not settings.keys() <= {"crop", "flip"}:
        raise BadInput(f"dataset.augment={settings}; expected null or some of crop (pixels) and flip (true, false).")
    augmentation = Augmentation(**settings)
    if augmentation.crop < 0:
        raise BadInput(f"dataset.augment.crop={augmentation.crop}; expected a number of pixels, 0 or more.")
    return augmentation
