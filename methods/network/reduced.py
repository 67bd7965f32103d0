"""A mock-up on a smaller image, where the resolution makes no difference to what layers read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from methods.network.mockup import Mockup

SIDE = 64  # pixels; what strides leave of them is still several pixels wide


def reduced(mockup: Mockup) -> Mockup | None:
    """The same network with a corner of the image; None if it is small already, or if a number of channels differs.

    A flattening, position embeddings or a fixed size need the whole image; a network that pools into a fixed size, as
    most for large images do, does not, and is tried many times faster on less. What is found must still be confirmed on
    the whole one.
    """
    example = mockup.example
    if example.dim() < 4 or max(example.shape[2:]) <= SIDE:
        return None
    corner = example[(slice(None), slice(None), *(slice(SIDE) for _ in example.shape[2:]))]
    try:
        less = Mockup(mockup.model, corner, groupwise=mockup.groupwise)
    except Exception:  # a user's forward pass may fail in any way
        return None
    return less if _sizes(less) == _sizes(mockup) and less.output.shape == mockup.output.shape else None


def _sizes(mockup: Mockup) -> object:
    """Modules in forward order, units of layers and channels that are read, call by call."""

    def along(path: str, calls: list[Tensor]) -> list[int]:
        return [call.shape[mockup.dimension(path)] for call in calls]

    def of(calls: Mapping[str, list[Tensor]]) -> dict[str, list[int]]:
        return {path: along(path, own) for path, own in calls.items() if path in mockup.channelled}

    others = {path: len(calls) for path, calls in mockup.reads.items() if path in mockup.others}
    return mockup.layers, of(mockup.numbers), of(mockup.reads), others
