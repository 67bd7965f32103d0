"""A split as one raw tensor in memory.

A batch is one index operation on it, then augmentation and normalisation on the whole batch, on the device where
training happens; nothing is done per sample in Python.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.data.augment import Augmentation, centre

# A split whose normalised float32 inputs take less is normalised once instead of batch by batch: the step of a LeNet-5
# is so short that normalising would show in it. With larger images, networks take so long that it does not.
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
        window: height and width of a network's inputs, cut out of larger raw images: the middle, or where the
            augmentation says. Those of the raw images where ``None``.
    """

    inputs: Tensor
    targets: Tensor
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    levels: float | None = None
    augmentation: Augmentation | None = None
    window: tuple[int, int] | None = None
    _raw_on: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _normalised_on: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def size_of_input(self) -> int:
        """How many values a network reads from one sample."""
        channels, *rest = self.inputs.shape[1:] or (1,)
        return int(channels) * math.prod(self.window if self.window is not None else rest)

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        augment: bool = False,
        device: str | torch.device = "cpu",
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once; the last batch is smaller where the batch size does not divide the split.

        Args:
            batch_size: samples per batch.
            generator: a generator on the CPU; it shuffles, and draws the augmentation. ``None`` keeps the order.
            augment: apply the split's augmentation, if it has one; needs a generator.
            device: where the batches should be. The whole split moves there at the first call and stays there.
            share: index of this process, and number of processes of the training. Each gets every n-th sample of
                every batch; all draw the same. A batch with fewer samples than processes is left out.

        Yields:
            Normalised float32 inputs, which the caller may change in place, and targets.
        """
        rank, world = share
        for inputs, targets in self._batches(batch_size, generator, augment, torch.device(device)):
            if world == 1:
                yield inputs, targets
            elif len(inputs) >= world:
                yield inputs[rank::world], targets[rank::world]

    def _batches(
        self, batch_size: int, generator: torch.Generator | None, augment: bool, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        augmentation = self.asked_for(augment, generator)
        if generator is None:
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
                batch = augmentation(batch, generator, self.window)
            yield self.normalise(self._cut(batch)), targets.index_select(0, rows)

    def asked_for(self, augment: bool, generator: torch.Generator | None) -> "Augmentation | None":
        """The augmentation that batches get; refused without a generator to draw from."""
        augmentation = self.augmentation if augment else None
        if augmentation is not None and generator is None:
            raise ValueError("augmentation draws random numbers: give batches() a generator")
        return augmentation

    def to_inputs(self, indices: Tensor | slice) -> Tensor:
        """The normalised inputs of the samples at ``indices``."""
        return self.normalise(self._cut(self.inputs[indices]))

    def normalise(self, raw: Tensor) -> Tensor:
        """A new float32 tensor with the network's inputs for ``raw`` samples."""
        mean, std = self.moments(raw)
        return raw.to(torch.float32, copy=True).sub_(mean).div_(std)

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a batch of ``raw`` samples: one number, or (C, 1, ...) on their device."""
        levels = self.levels if self.levels is not None else (1.0 if raw.is_floating_point() else 255.0)
        mean, std = (self._per_channel(value, raw) * levels for value in (self.mean, self.std))
        return mean, std

    def _cut(self, raw: Tensor) -> Tensor:
        return raw if self.window is None else centre(raw, self.window)

    def _in_order(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self._raw(device)
        for start in range(0, len(self), batch_size):
            yield self.normalise(self._cut(inputs[start : start + batch_size])), targets[start : start + batch_size]

    def _raw(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._raw_on:
            self._raw_on[device] = self.inputs.to(device), self.targets.to(device)
        return self._raw_on[device]

    def _normalised(self, device: torch.device) -> Tensor | None:
        if self.inputs.numel() * 4 > NORMALISE_ONCE_BYTES:
            return None
        if device not in self._normalised_on:
            self._normalised_on[device] = self.normalise(self._cut(self._raw(device)[0]))
        return self._normalised_on[device]

    @staticmethod
    def _per_channel(value: float | Sequence[float], raw: Tensor) -> Tensor:
        channels = torch.tensor(value, dtype=torch.float32, device=raw.device)
        return channels.view(-1, *[1] * (raw.dim() - 2)) if channels.dim() else channels
