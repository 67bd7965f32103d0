"""The sparse tensor cores of NVIDIA GPUs: linear layers of which two of every four weights are zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure.runtimes.eager import in_inference_mode
from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime, placed

ROWS, COLUMNS = 32, 64  # the kernels for 16-bit numbers need multiples of these sizes


class Sparse24(Runtime):
    """Eager PyTorch in which 2:4 sparse linear layers are semi-structured tensors; half precision, CUDA only.

    Layers with other patterns of zeros, or of sizes that the kernels do not support, stay dense; so do convolutions,
    for which PyTorch has no such kernel. A network without 2:4 layers runs as in ``eager``.
    """

    name = "sparse_2_4"
    precisions = ("float16", "bfloat16")
    devices = ("cuda",)
    uses_zeros = True

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A forward pass with semi-structured linear layers."""
        model, inputs = placed(model, inputs, conditions)
        for layer in layers_with_2_of_4(model):
            layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight), requires_grad=False)
        return in_inference_mode(model, inputs)

    def figures(self, dense: nn.Module, pruned: nn.Module, inputs: Tensor, conditions: Conditions) -> dict[str, Any]:
        """The number of layers on the sparse cores; there is no break-even, since only this one sparsity exists."""
        return {"sparse_layers": len(layers_with_2_of_4(pruned))}


def layers_with_2_of_4(model: nn.Module) -> list[nn.Linear]:
    """Linear layers with at least two zeros among every four adjacent inputs, in sizes that the kernels support."""
    return [module for module in model.modules() if type(module) is nn.Linear and _fits(module.weight)]


def _fits(weight: Tensor) -> bool:
    rows, columns = weight.shape
    if rows % ROWS or columns % COLUMNS:
        return False
    return bool((weight.reshape(rows, columns // 4, 4).count_nonzero(-1) <= 2).all())
