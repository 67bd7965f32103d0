"""The sparse tensor cores of NVIDIA GPUs: linear layers of which two of every four weights are zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure.runtimes.eager import in_inference_mode
from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime, placed

ROWS, COLUMNS = 32, 64  # what the kernels for 16-bit numbers want multiples of


class Sparse24(Runtime):
    """Eager PyTorch with the linear layers that are 2:4 sparse as semi-structured tensors; half precision, CUDA only.

    Layers with other zeros, or of sizes that the kernels do not take, stay dense; so do convolutions, for which PyTorch
    has no such kernel. A network without 2:4 layers runs as in ``eager``.
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
        """How many layers ran on the sparse cores; break-even needs no search, since only this one sparsity exists."""
        return {"sparse_layers": len(layers_with_2_of_4(pruned))}


def layers_with_2_of_4(model: nn.Module) -> list[nn.Linear]:
    """Linear layers with two zeros at least among every four neighbouring inputs, in sizes that the kernels take."""
    return [module for module in model.modules() if type(module) is nn.Linear and _fits(module.weight)]


def _fits(weight: Tensor) -> bool:
    rows, columns = weight.shape
    if rows % ROWS or columns % COLUMNS:
        return False
    return bool((weight.reshape(rows, columns // 4, 4).count_nonzero(-1) <= 2).all())
