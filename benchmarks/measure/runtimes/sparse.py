"""PyTorch's sparse matrices for linear layers: how much time unstructured zeros save, and from which sparsity on."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure.runtimes.eager import in_inference_mode
from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime, placed
from methods.seeds import stream

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
ROUNDS, ROUND_SECONDS = 5, 0.004


class SparseCsr(Runtime):
    """Eager PyTorch in which linear layers that have zeros store their weights in compressed sparse rows (CSR).

    Convolutions stay dense: PyTorch has no sparse kernel for them. A network without zeros runs as in ``eager``.
    """

    name = "sparse_csr"
    uses_zeros = True

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A forward pass with sparse linear layers."""
        model, inputs = placed(model, inputs, conditions)
        return in_inference_mode(with_sparse_layers(model), inputs)

    def figures(self, dense: nn.Module, pruned: nn.Module, inputs: Tensor, conditions: Conditions) -> dict[str, Any]:
        """The number of sparse layers, and the sparsity from which sparse layers are faster on this machine."""
        layers = sum(_has_zeros(module) for module in pruned.modules())
        return {"sparse_layers": layers, "break_even_sparsity": break_even(dense, inputs, conditions)}


class SparseLinear(nn.Module):
    """y = W x + b with W in CSR."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Sparse CSR tensor support is in beta state"
            self.weight = linear.weight.detach().to_sparse_csr()
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., out) of inputs (..., in)."""
        flat = (self.weight @ x.reshape(-1, x.shape[-1]).T).T
        if self.bias is not None:
            flat = flat + self.bias
        return flat.reshape(*x.shape[:-1], -1)


def with_sparse_layers(model: nn.Module) -> nn.Module:
    """``model`` with every linear layer that has zeros replaced, in place."""
    if isinstance(model, nn.Linear) and _has_zeros(model):
        return SparseLinear(model)
    for name, child in model.named_children():
        setattr(model, name, with_sparse_layers(child))
    return model


def break_even(dense: nn.Module, inputs: Tensor, conditions: Conditions) -> float | None:
    """The smallest fraction of random zeros from which the network is faster with sparse linear layers.

    This is an estimate on a grid of sparsities; None if even the sparsest is not faster, or no layer is linear.
    """
    model, inputs = placed(dense, inputs, conditions)
    if not any(type(module) is nn.Linear for module in model.modules()):
        return None
    run_dense = in_inference_mode(model, inputs)
    reached = None
    for sparsity in reversed(SPARSITIES):
        thinned = with_sparse_layers(_thinned(model, sparsity))
        if _ratio(run_dense, in_inference_mode(thinned, inputs)) < 1:
            break
        reached = sparsity
    return reached


def _thinned(model: nn.Module, sparsity: float) -> nn.Module:
    model = copy.deepcopy(model)
    generator = stream(0, "break-even", str(sparsity))
    for module in model.modules():
        if type(module) is nn.Linear:
            module.weight.mul_(torch.rand(module.weight.shape, generator=generator) >= sparsity)
    return model


def _ratio(dense: Run, sparse: Run) -> float:
    started = time.perf_counter()
    dense(), sparse()
    repeats = max(1, round(ROUND_SECONDS / (time.perf_counter() - started)))
    return float(np.median([_seconds(dense, repeats) / _seconds(sparse, repeats) for _ in range(ROUNDS)]))


def _seconds(run: Run, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - started


def _has_zeros(module: nn.Module) -> bool:
    return type(module) is nn.Linear and bool((module.weight == 0).any())
