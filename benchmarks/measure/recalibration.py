"""Recompute batch-norm statistics right after pruning, when they still belong to the dense network."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.layers.statistics import Calibration
from methods.network.reading import evaluating


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of ``model`` that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


@torch.no_grad()
def recalibrated(model: nn.Module, calibration: Calibration) -> nn.Module:
    """A copy whose batch norms have the running means and variances of ``calibration``.

    This takes one pass in which only batch norms are in training mode. The means and variances of the batches are
    averaged, as in training, each batch weighted by its number of samples. Weights do not change.
    """
    model = copy.deepcopy(model)
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    seen = 0
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for inputs, _ in calibration.batches():
            if len(inputs) == 1 and seen:
                break  # the variance of a single sample may be undefined
            seen += len(inputs)
            for norm in norms:
                norm.momentum = len(inputs) / seen
            model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model
