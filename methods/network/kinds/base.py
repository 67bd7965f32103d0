"""What a layer kind answers about the modules that it owns.

One contract defines a kind: for every module and whatever it reads, ``matrix`` times ``patches`` plus the bias is what
the module returns, group by group:

    written[n, o, t] = sum_d matrix[o, d] patches[n, group(o), d, t] + bias[o],    d = (in / groups, *kernel) flattened.

Everything else that methods do with layers (moments, gradients, costs, masks, removal) follows from these answers, so
that a new kind is one file in this folder: a subclass of :class:`Kind`, found by :mod:`methods.network.kinds.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.network.kinds.cutting import follow, take
from methods.network.parameters import bias_of, weight_of


class Kind(ABC):
    """One kind of layer; modules are passed in, and objects hold nothing but what the layout of a weight depends on.

    Attributes:
        channel: dimension of the channels in what a module reads and returns.
        multiplies: whether the input is multiplied by the weight. If not, the input says which part of the weight is
            looked up: there are no input channels to remove and no multiplications, and single weights are not pruned.
    """

    channel: ClassVar[int]
    multiplies: ClassVar[bool] = True

    @abstractmethod
    def owns(self, module: nn.Module) -> bool:
        """Whether ``module`` is of this kind. A subclass with a ``forward`` of its own is not: it is opaque."""

    def of(self, module: nn.Module) -> Kind:
        """The kind as it is for ``module``, where layouts differ within a kind."""
        return self

    # --- the weight --------------------------------------------------------------------------------------------------

    def as_matrix(self, stored: Tensor) -> Tensor:
        """(..., out, in / groups, *kernel) view of values in the layout in which modules store their weight."""
        return stored

    def as_stored(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`as_matrix`."""
        return matrix

    def matrix(self, module: nn.Module) -> Tensor:
        """(out, in / groups, *kernel) view of the weight; writing into it writes the weight unless it is a copy."""
        return self.as_matrix(weight_of(module))

    def stored_like(self, module: nn.Module, matrix: Tensor) -> Tensor:
        """``matrix``, also flattened to (out, d), in the layout and shape in which the module stores its weight."""
        return self.as_stored(matrix.reshape(self.matrix(module).shape))

    def bias(self, module: nn.Module) -> Tensor | None:
        """(out,) bias, or None."""
        return bias_of(module)

    def groups(self, module: nn.Module) -> int:
        """Number of groups: output units of one group read the input channels of that group alone."""
        return 1

    def units(self, module: nn.Module) -> int:
        """Number of output units."""
        return self.matrix(module).shape[0]

    def inputs(self, module: nn.Module) -> int:
        """Number of input channels."""
        return self.matrix(module).shape[1] * self.groups(module)

    # --- what it reads and writes ------------------------------------------------------------------------------------

    @abstractmethod
    def patches(self, module: nn.Module, read: Tensor) -> Tensor:
        """(n, in x kernel, T): what each of T output positions of n samples sees; channels of a group lie together."""

    def rows(self, module: nn.Module, read: Tensor) -> Tensor:
        """(in x kernel, n x T): the same with samples and positions side by side."""
        patches = self.patches(module, read)
        return patches.transpose(0, 1).reshape(patches.shape[1], -1)

    def gradients(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Tensor:
        """(n, weights) gradients of every sample in the matrix, row by row, from dl/ds at the module's output."""
        groups = self.groups(module)
        patches = self.patches(module, read)
        patches = patches.reshape(len(read), groups, -1, patches.shape[2])
        slopes = self.by_position(module, slopes).reshape(len(read), groups, -1, patches.shape[3])
        return (slopes @ patches.transpose(2, 3)).flatten(1)

    @abstractmethod
    def by_position(self, module: nn.Module, values: Tensor) -> Tensor:
        """(n, channels, T) view of what the module has read or written."""

    def positions(self, module: nn.Module, written: Tensor) -> int:
        """How often each weight was used for ``written``: samples x output positions (pixels, tokens)."""
        return written.numel() // self.units(module)

    @abstractmethod
    def compute(self, module: nn.Module, read: Tensor, matrix: Tensor) -> Tensor:
        """What the module would return with the weight ``matrix`` and without bias."""

    def like(self, module: nn.Module, matrix: Tensor, bias: Tensor | None, *, pointwise: bool = False) -> nn.Module:
        """A new ungrouped module of this kind with this weight (out, in, *kernel) and bias.

        Args:
            module: device, dtype, mode and, unless ``pointwise``, stride, padding and dilation are taken from it.
            matrix: weight of any number of output units and inputs.
            bias: (out,), or None.
            pointwise: every position by itself, at the resolution of what is read.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no new modules")

    # --- removal -----------------------------------------------------------------------------------------------------

    def cut_outputs(self, module: nn.Module, gone: Tensor) -> None:
        """Remove the output units ``gone`` (indices); parameters are replaced, sizes follow."""
        take(module, ("weight", "bias"), 0, gone)
        self.resize(module)

    def cut_inputs(self, module: nn.Module, gone: Tensor) -> None:
        """Remove the input channels ``gone`` (indices); parameters are replaced, sizes follow."""
        take(module, ("weight",), 1, gone)
        self.resize(module)

    def resize(self, module: nn.Module) -> None:
        """Set the module's own sizes (``out_features``, ``in_channels``, ...) to those of its weight."""
        follow(module, outputs=self.units(module), inputs=self.inputs(module))

    @torch.no_grad()
    def write(self, module: nn.Module, matrix: Tensor) -> None:
        """Copy new values, (out, in / groups, *kernel) or flattened to (out, d), into the weight."""
        weight_of(module).copy_(self.stored_like(module, matrix))


def runs(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` computes what ``kind`` does: of that class, or of a subclass that left ``forward`` alone."""
    return isinstance(module, kind) and type(module).forward is kind.forward
