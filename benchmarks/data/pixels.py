"""Images that are not in memory but can be used like a tensor: indexed, counted, asked for their shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.data.augment import centre, middle
from benchmarks.data.split import Split


class Store(Protocol):
    """Where pixels are kept: :class:`benchmarks.data.arrays.Mapped`, :class:`benchmarks.data.streaming.Streamed`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    def take(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels of some rows."""

    def stream(self, batches: Sequence[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """The pixels of several batches of rows, in their order; in page-locked memory with ``pin``."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some images of a store; indexing takes some of them and reads none."""

    store: Store
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice) -> Pixels:
        return Pixels(self.store, self.rows[index])

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W), as of a tensor."""
        return torch.Size((len(self.rows), *self.store.shape))


@dataclass(eq=False)
class LargeSplit(Split):
    """A split whose pixels are read batch by batch; its batches are to the bit those of the same split in memory.

    The order and the augmentation are drawn in this process from the generator, as :class:`Split` draws them.
    """

    inputs: Pixels  # type: ignore[assignment]  # a tensor in everything that is asked of it

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        augment: bool = False,
        device: str | torch.device = "cpu",
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As :meth:`Split.batches`; of the pixels only this process's share is read."""
        device, (rank, world) = torch.device(device), share
        augmentation = self.asked_for(augment, generator)
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        parts = [part for part in order.split(batch_size) if len(part) >= world]
        own = [part[rank::world] for part in parts]
        rows = [self.inputs.rows[part] for part in own]
        size, window = self.inputs.shape[2:], self.window or tuple(self.inputs.shape[2:])
        pin = device.type == "cuda"
        store = self.inputs.store
        windows = getattr(store, "windows", None)  # of arrays, which cut, mirror and normalise in one pass
        if windows is not None and not pin and (augmentation is None or augmentation.cuts_only):
            moments = self.moments(torch.empty(0, *self.inputs.shape[1:], dtype=torch.uint8))
            for part, mine, places in zip(parts, own, rows, strict=True):
                draws = middle(len(part), size, window)
                if augmentation is not None:
                    draws = augmentation.draw(len(part), size, window, self._drawn_by(generator))
                found = windows(places, draws.of(slice(rank, None, world)), window, *moments)
                yield found.to(device), self._targets(mine, device)
            return
        for part, mine, raw in zip(parts, own, store.stream(rows, pin), strict=True):
            images = raw.to(device, non_blocking=pin)
            if augmentation is not None:
                draws = augmentation.draw(len(part), size, window, self._drawn_by(generator))
                images = augmentation.apply(images, draws.of(slice(rank, None, world)), window)
            yield self.normalise(centre(images, window)), self._targets(mine, device)

    def to_inputs(self, indices: Tensor | slice) -> Tensor:
        """The normalised inputs of the samples at ``indices``."""
        raw = self.inputs.store.take(self.inputs.rows[indices])
        return self.normalise(centre(raw, self.window or raw.shape[2:]))

    def _targets(self, rows: Tensor, device: torch.device) -> Tensor:
        return self.targets.index_select(0, rows).to(device)

    @staticmethod
    def _drawn_by(generator: torch.Generator | None) -> torch.Generator:
        assert generator is not None  # augmentation was refused without one
        return generator


def split_of(inputs: Tensor | Pixels, targets: Tensor, **how: Any) -> Split:
    """A split of what is in memory, or of what is not."""
    return LargeSplit(inputs, targets, **how) if isinstance(inputs, Pixels) else Split(inputs, targets, **how)
