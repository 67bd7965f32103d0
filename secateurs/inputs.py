"""Adapt networks with several inputs, or with a structured output, to take one tensor and return one.

The engine works on networks that take one tensor and return one. For any other network the samples stay where they are
and the engine is given their row numbers; a subclass of the network's class, created at run time, looks the samples up
and picks the tensor from the output. The paths of modules do not change, and the network gets its own class back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import BadInput, first_line
from methods.network.reading import evaluating

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
MOST_ROWS = 2**24  # the engine passes inputs on in float32, which represents integers exactly up to this number


class Samples:
    """The inputs of n samples: the arguments of one call of a network with all of them.

    Args:
        inputs: (n, ...) a tensor, or a tuple (positional) or a mapping (by keyword) of arguments. In these, tensors
            have n rows each; anything that is not a tensor, and any 0-d tensor, is passed to every call as it is.

    Raises:
        BadInput: there is no tensor, no sample, or tensors of different lengths.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        if isinstance(inputs, Tensor):
            self.args = (inputs,)
        elif isinstance(inputs, Mapping):
            self.kwargs = {str(name): part for name, part in inputs.items()}
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str):
            self.args = tuple(inputs)
        lengths = {len(part) for part in (*self.args, *self.kwargs.values()) if _has_rows(part)}
        if len(lengths) != 1:
            found = f"tensors of {' and '.join(map(str, sorted(lengths)))} rows" if lengths else type(inputs).__name__
            raise BadInput(
                f"inputs are {found}; expected a tensor (n, ...), or a tuple or mapping of tensors of n rows"
            )
        [self.count] = lengths
        if not 0 < self.count <= MOST_ROWS:
            raise BadInput(f"inputs have {self.count} rows; expected 1 to {MOST_ROWS} samples")

    def __len__(self) -> int:
        return self.count

    @property
    def one_tensor(self) -> Tensor | None:
        """The inputs if they are a single floating-point tensor passed by position, else None."""
        if self.kwargs or len(self.args) != 1 or not self.args[0].is_floating_point():
            return None
        return self.args[0]  # type: ignore[no-any-return]  # a tensor

    def for_engine(self, plain: bool, device: torch.device) -> Tensor:
        """What the engine is given: the tensor itself for a ``plain`` network, else (n, 1) :meth:`rows`."""
        tensor = self.one_tensor
        return tensor.to(device) if plain and tensor is not None else self.rows(device)

    def rows(self, device: torch.device) -> Tensor:
        """The row number of each sample, (n, 1) float32, which the engine passes in place of the sample."""
        return torch.arange(self.count, dtype=torch.float32, device=device)[:, None]

    def at(self, rows: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with the samples ``rows`` (b, 1), on the device of ``rows``."""
        places = rows[..., 0].long()

        def part(value: Any) -> Any:
            if not _has_rows(value):
                return value
            return value[places.to(value.device)].to(rows.device)

        return tuple(map(part, self.args)), {name: part(value) for name, value in self.kwargs.items()}

    def first(self, count: int, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with the first ``count`` samples."""
        return self.at(self.rows(device)[:count])

    def joined(self, other: Samples) -> Samples:
        """These samples followed by those of ``other``, which has the same arguments."""
        if len(self.args) != len(other.args) or self.kwargs.keys() != other.kwargs.keys():
            raise BadInput("the validation inputs have other arguments than the training inputs; expected the same")

        def both(one: Any, two: Any) -> Any:
            return torch.cat([one, two]) if _has_rows(one) else one

        if self.kwargs:
            return Samples({name: both(part, other.kwargs[name]) for name, part in self.kwargs.items()})
        return Samples(tuple(map(both, self.args, other.args)))


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def tensor_of(output: Any) -> Tensor:
    """The tensor in a network's output: the output itself, its ``logits``, or its first entry.

    Raises:
        BadInput: there is no tensor in any of these places.
    """
    found = output
    if not isinstance(found, Tensor):
        named = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
        if named is not None:
            found = named
        elif isinstance(found, Mapping):
            found = next(iter(found.values()), None)
        elif isinstance(found, Sequence) and len(found):
            found = found[0]
    if not isinstance(found, Tensor):
        raise BadInput(
            f"the network returns {type(output).__name__}; expected a tensor, or one under logits or at the first place"
        )
    return found


def is_plain(model: nn.Module, samples: Samples, device: torch.device) -> bool:
    """Whether the network takes one floating-point tensor and returns one.

    Raises:
        BadInput: the network cannot be called with these inputs.
    """
    args, kwargs = samples.first(1, device)
    with torch.no_grad(), evaluating(model):
        try:
            output = model(*args, **kwargs)
        except Exception as error:  # a user's forward pass may fail in any way
            raise BadInput(
                f"{type(model).__name__} cannot be called with these inputs ({first_line(error, 200)})\n"
                "expected a tensor (n, ...), or a tuple (positional) or mapping (by keyword) of the network's arguments"
            ) from error
    tensor_of(output)
    return samples.one_tensor is not None and isinstance(output, Tensor)


def view_of_rows(kind: type[nn.Module], samples: Samples) -> type[nn.Module]:
    """A subclass of ``kind`` that is called with row numbers (b, 1) of ``samples`` and returns a tensor."""

    class Viewed(kind):  # type: ignore[misc, valid-type]  # the base class is known only at run time
        def __call__(self, rows: Tensor) -> Tensor:
            args, kwargs = samples.at(rows)
            return tensor_of(super().__call__(*args, **kwargs))

    Viewed.__name__, Viewed.__qualname__, Viewed.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Viewed


@contextmanager
def called_by_row(model: nn.Module, samples: Samples) -> Iterator[type[nn.Module]]:
    """Make ``model`` and its copies take row numbers of ``samples`` in this context; yields its original class.

    Copies that were made in this context keep the subclass; :func:`given_back` restores the original class.
    """
    kind = type(model)
    model.__class__ = view_of_rows(kind, samples)
    try:
        yield kind
    finally:
        model.__class__ = kind


@contextmanager
def given_back(model: nn.Module, kind: type[nn.Module]) -> Iterator[None]:
    """Give ``model`` its class ``kind`` back in this context, for code that calls it with its own arguments."""
    present = type(model)
    model.__class__ = kind
    try:
        yield
    finally:
        model.__class__ = present


def own_copy(model: nn.Module) -> nn.Module:
    """A copy of the network to work on; the user's own network is left alone.

    Raises:
        BadInput: the network cannot be copied, or is not a module.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"model is {type(model).__name__}; expected a torch.nn.Module")
    try:
        return copy.deepcopy(model)
    except Exception as error:  # for instance tensors that belong to an autograd graph
        raise BadInput(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error
