"""Removing nodes in the middle of a training, so that the survivors keep their optimizer state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from methods.network.graph import NetworkGraph
from methods.network.sharing import share_again, shared_parameters


def remove_in_training(graph: NetworkGraph, kept: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Physically remove all nodes but ``kept`` (sorted indices per group name); parameters stay the same objects.

    Whatever state of a parameter has its shape (momentum, second moments) is cut exactly as the parameter is: numbers
    0, 1, 2, ... are put in place of its entries, the nodes are removed, and the numbers that are left say what stays.

    Args:
        graph: of the network as it is now.
        kept: for each group that shrinks.
        optimizer: over the network's parameters.
    """
    model = graph.model
    parameters = dict(model.named_parameters())
    shared = shared_parameters(model)
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64, device=parameter.device).view_as(
            parameter
        )
    for group in graph.groups:
        if group.name in kept and len(kept[group.name]) < group.size:
            graph.remove(graph.find(group.name), kept[group.name])
    for name, left in list(model.named_parameters()):
        parameter, entries = parameters[name], left.detach().long()
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == values[name].shape and value.ndim:
                state[key] = value.flatten()[entries.to(value.device)]
        parameter.data = values[name].flatten()[entries]
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, parameter)
    share_again(model, shared)
