"""Splits of sequences of tokens, which stay whole numbers.

Where sequences are padded, a batch has sequences of about one length, and no more padding than its longest needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.data.split import Split
from benchmarks.data.tokens import Tokens
from benchmarks.settings.tasks import LANGUAGE_MODEL

BUCKET = 50  # batches of padded sequences that are sorted by length together
WIDTH = 2048  # values that a token counts as, where the size of an input is asked for


@dataclass(eq=False)
class TokenSplit(Split):
    """Token ids (N, T) int32, and targets (N,) or (N, T) int64; batches of inputs are int64.

    Args:
        tokens: what the ids are.
    """

    tokens: Tokens = field(default_factory=lambda: Tokens(LANGUAGE_MODEL))

    @property
    def size_of_input(self) -> int:
        """Roughly how many values a network reads from one sample."""
        return WIDTH * self.inputs.shape[1]

    def normalise(self, raw: Tensor) -> Tensor:
        """A new int64 tensor of the ids."""
        return raw.to(torch.int64, copy=True)

    def to_inputs(self, indices: Tensor | slice) -> Tensor:
        """The ids of the samples at ``indices``, with all their padding."""
        return self.normalise(self.inputs[indices])

    def _batches(
        self, batch_size: int, generator: torch.Generator | None, augment: bool, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self._raw(device)
        if generator is None:
            order = list(torch.arange(len(self)).split(batch_size))
        else:
            order = self._bucketed(torch.randperm(len(self), generator=generator), batch_size, generator)
        for rows in order:
            places = rows.to(device)
            yield self._trimmed(inputs.index_select(0, places), targets.index_select(0, places))

    def _bucketed(self, order: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        """Rows of the batches: every ``BUCKET`` of them by length, then all in random order, a small one last."""
        if self.tokens.padding is None:
            return list(order.split(batch_size))
        lengths = (self.inputs != self.tokens.padding).sum(1)
        parts = [part[lengths[part].argsort(stable=True)] for part in order.split(BUCKET * batch_size)]
        batches = list(torch.cat(parts).split(batch_size))
        full = len(self) // batch_size
        return [batches[i] for i in torch.randperm(full, generator=generator).tolist()] + batches[full:]

    def _trimmed(self, raw: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch, without positions at which all sequences have padding."""
        inputs = self.normalise(raw)
        if self.tokens.padding is None:
            return inputs, targets
        length = max(1, int((inputs != self.tokens.padding).sum(1).max()))
        return inputs[:, :length], targets[:, :length] if self.tokens.each else targets
