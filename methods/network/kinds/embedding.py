"""Embeddings: a table whose rows are looked up. Its columns are the output units, as of a layer that reads one-hots."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.network.kinds.base import runs
from methods.network.kinds.cutting import take
from methods.network.kinds.linear import ByPosition
from methods.network.parameters import weight_of


class Embedding(ByPosition):
    """``nn.Embedding``; stored as (inputs, out), where the inputs are the numbers that can be looked up."""

    multiplies = False

    def owns(self, module: nn.Module) -> bool:
        """Embeddings that leave their table as it is when they look something up."""
        return runs(module, nn.Embedding) and getattr(module, "max_norm", None) is None

    def as_matrix(self, stored: Tensor) -> Tensor:
        """(..., out, inputs)."""
        return stored.transpose(-1, -2)

    def as_stored(self, matrix: Tensor) -> Tensor:
        """(..., inputs, out)."""
        return matrix.transpose(-1, -2)

    def bias(self, module: nn.Module) -> Tensor | None:
        """None."""
        return None

    def patches(self, module: nn.Module, read: Tensor) -> Tensor:
        """(n, inputs, T): a one at what is looked up."""
        weight = weight_of(module)
        return functional.one_hot(read.flatten(1), len(weight)).transpose(1, 2).to(weight.dtype)

    def rows(self, module: nn.Module, read: Tensor) -> Tensor:
        """(inputs, n x T)."""
        weight = weight_of(module)
        return functional.one_hot(read.flatten(), len(weight)).T.to(weight.dtype)

    def gradients(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Tensor:
        """(n, out x inputs), summed over positions."""
        return torch.einsum("npo,nip->noi", slopes.flatten(1, -2), self.patches(module, read)).flatten(1)

    def positions(self, module: nn.Module, written: Tensor) -> int:
        """None: nothing is multiplied."""
        return 0

    def compute(self, module: nn.Module, read: Tensor, matrix: Tensor) -> Tensor:
        """What is looked up in ``matrix``."""
        return functional.embedding(read, matrix.T)

    def like(self, module: nn.Module, matrix: Tensor, bias: Tensor | None, *, pointwise: bool = False) -> nn.Module:
        """Not made: an embedding is not split."""
        raise NotImplementedError("an embedding makes no new modules")

    def cut_outputs(self, module: nn.Module, gone: Tensor) -> None:
        """The second dimension of the table."""
        take(module, ("weight",), 1, gone)
        setattr(module, "embedding_dim", weight_of(module).shape[1])  # noqa: B010 (to mypy any attribute is a tensor)

    def cut_inputs(self, module: nn.Module, gone: Tensor) -> None:
        """Never: what can be looked up stays.

        Raises:
            TypeError: always.
        """
        raise TypeError("an embedding reads no channels")
