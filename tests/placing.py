"""What tests make is made where they compute: ``pytest --device cuda`` (or ``emulated``) needs no word in each test.

Networks, samples and expected numbers that a file of ``ROOMS`` makes, itself or by a builder, are on the device; what
the project makes is where the project puts it, so that a tensor that it leaves behind on the CPU is still noticed.
Random numbers are drawn on the CPU, so that they are those of a run on the CPU.
"""

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

TESTS = Path(__file__).parent
ROOMS = [
    TESTS / "methods",
    TESTS / "secateurs",
]  # whose tests take ``device``; in others they train, and a trainer moves
ROOMS += [TESTS / "benchmarks" / name for name in ("measure", "models", "reproductions", "zoo")]
ROOMS += [TESTS / "benchmarks" / name for name in ("test_groups.py", "test_spectrum.py")]
BUILDERS = [TESTS.parent / name for name in ("secateurs/examples.py", "benchmarks/models", "benchmarks/zoo")]
PROJECT = tuple(TESTS.parent / name for name in ("methods", "benchmarks", "secateurs"))
MAKING = {
    *("tensor", "as_tensor", "asarray", "from_numpy", "scalar_tensor", "empty", "zeros", "ones", "full", "eye"),
    *("arange", "linspace", "logspace", "rand", "randn", "randint", "randperm", "tril_indices", "triu_indices"),
    *("hann_window", "complex", "normal", "cartesian_prod"),
}
DRAWING = {"uniform_", "normal_", "bernoulli_", "random_", "exponential_", "cauchy_", "geometric_", "log_normal_"}
DRAWING |= {"kaiming_uniform_", "kaiming_normal_"}


class Placing(TorchFunctionMode):
    """Inside, tests make their tensors on ``device``."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.there = device

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple = (), options: dict | None = None
    ) -> Any:
        options = options or {}
        name = getattr(function, "__name__", "")
        if name in MAKING and options.get("device") is None and made_by_a_test(inspect.currentframe()):
            made = function(*arguments, **options)
            return _moved(made, self.there) if isinstance(made, Tensor) else made
        if name in DRAWING:
            (target, *rest), named = ((options["tensor"],), options) if "tensor" in options else (arguments, options)
            if target.device.type == self.there.type and made_by_a_test(inspect.currentframe()):
                drawn = torch.empty(target.shape, dtype=target.dtype)
                function(drawn, *rest, **{key: value for key, value in named.items() if key != "tensor"})
                with torch.no_grad():
                    return target.copy_(drawn)
        return function(*arguments, **options)


def _moved(made: Tensor, there: torch.device) -> Tensor:
    moved = made.detach().to(there)
    return moved.requires_grad_() if made.requires_grad else moved


def made_by_a_test(frame: FrameType | None) -> bool:
    """Whether a file of ``ROOMS`` calls, with nothing of the project but builders between."""
    while frame is not None:
        found = _in_a_room(frame.f_code.co_filename)
        if found is not None:
            return found
        frame = frame.f_back
    return False


@cache
def _in_a_room(file: str) -> bool | None:
    """None for files that only hand on: builders, and what is not of the project."""
    path = Path(file)
    if path.name.startswith("test_") and path.is_relative_to(TESTS):
        return any(path.is_relative_to(room) for room in ROOMS)
    of_the_project = any(path.is_relative_to(hall) for hall in PROJECT)
    return False if of_the_project and not any(map(path.is_relative_to, BUILDERS)) else None
