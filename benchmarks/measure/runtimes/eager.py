"""PyTorch's eager mode: one kernel after another."""

import torch
from torch import Tensor, nn

from benchmarks.measure.runtimes.runtime import DTYPES, Conditions, Run, Runtime, placed


class Eager(Runtime):
    """PyTorch's eager mode, in ``inference_mode``."""

    name = "eager"
    precisions = tuple(DTYPES)
    devices = ("cpu", "cuda")
    layouts = True

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A forward pass."""
        return in_inference_mode(*placed(model, inputs, conditions))


def in_inference_mode(model: nn.Module, inputs: Tensor) -> Run:
    """A call of ``model`` on ``inputs`` that records no autograd graph."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(inputs)

    return run
