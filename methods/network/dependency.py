"""Which output units of a network's layers torch-pruning's dependency graph couples, and what it says reads them.

The graph (Fang et al., DepGraph, CVPR 2023) follows autograd from layer to layer by rules for each kind of operation.
That is quick and knows the common networks; where a rule is missing or does not fit (a concatenation that is flattened,
a shortcut padded with zeros, heads of attention, recurrence) its groups are wrong or it fails. So its groups are
proposals: :mod:`methods.network.coupling` tries them by experiment.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.network.mockup import LAYERS, PASSING, depthwise


@dataclass(frozen=True)
class Proposal:
    """One coupled group: pairs (node, unit), (n, 2) int64 and sorted; nodes are the units of the first writer.

    Attributes:
        writers: for each layer whose output units the nodes are.
        channels: for each module that reads or carries the nodes, its input channels.
    """

    writers: Mapping[str, Tensor]
    channels: Mapping[str, Tensor]


def proposed_groups(model: nn.Module, example: Tensor, layers: Sequence[str]) -> list[Proposal]:
    """The groups of the dependency graph, in the order of ``layers``; none where it cannot trace the network.

    Args:
        model: left as it is: a copy is traced.
        example: inputs; one is run.
        layers: paths of the linear and convolutional layers, in forward order.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
            warnings.simplefilter("ignore")  # of parameters outside of layers: their groups do not pass the experiment
            return _groups(copy.deepcopy(model).requires_grad_(True), example[:1].clone(), layers)
    except Exception:  # a user's network may fail in any way inside the tracer; the experiment remains
        return []


def _groups(model: nn.Module, example: Tensor, layers: Sequence[str]) -> list[Proposal]:
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(model, (example,), verbose=False)
    paths = {module: path for path, module in model.named_modules()}
    proposals: list[Proposal] = []
    for path in layers:
        module = model.get_submodule(path)
        if any(path in proposal.writers for proposal in proposals) or module not in graph.module2node:
            continue
        pruner = graph.get_pruner_of_module(module)
        units = list(range(pruner.get_out_channels(module)))
        proposals.append(_proposal(graph, graph.get_pruning_group(module, pruner.prune_out_channels, units), paths))
    return proposals


def _proposal(graph: Any, group: Any, paths: Mapping[nn.Module, str]) -> Proposal:
    writers: dict[str, list[Tensor]] = defaultdict(list)
    channels: dict[str, list[Tensor]] = defaultdict(list)
    for item in group:
        module = item.dep.target.module
        pairs = torch.stack([torch.tensor(item.root_idxs), torch.tensor(item.idxs)], 1)
        if isinstance(module, PASSING) or depthwise(module):
            channels[paths[module]].append(pairs)
        elif isinstance(module, LAYERS):
            # graph handlers are bound methods, which compare by == and inside this predicate, but never by `is`
            writes = graph.is_out_channel_pruning_fn(item.dep.handler)
            (writers if writes else channels)[paths[module]].append(pairs)
    return Proposal(
        *({path: torch.cat(own).unique(dim=0) for path, own in side.items()} for side in (writers, channels))
    )
