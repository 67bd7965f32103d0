"""``torch.compile``: fused kernels, generated for each network."""

from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.measure.runtimes.eager import in_inference_mode
from benchmarks.measure.runtimes.runtime import DTYPES, Conditions, Run, Runtime, placed


class Compile(Runtime):
    """``torch.compile`` with its default backend and fixed shapes; needs a C++ compiler on the CPU."""

    name = "compile"
    precisions = tuple(DTYPES)
    devices = ("cpu", "cuda")
    layouts = True

    def fresh(self) -> None:
        """Drop compiled code: PyTorch caches it per function, and stops compiling after a few networks of one class."""
        torch.compiler.reset()

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A compiled forward pass; compilation takes seconds and is complete when this returns."""
        model, inputs = placed(model, inputs, conditions)
        # torch's stub returns a plain callable
        compiled = cast(nn.Module, torch.compile(model, dynamic=False, fullgraph=True))
        run = in_inference_mode(compiled, inputs)
        run()
        return run
