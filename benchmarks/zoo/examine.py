"""Examine a network of the zoo: what can be pruned, and whether the pruned network is correct."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.groups import parts_on
from benchmarks.zoo.specimen import Specimen
from methods.budgets.budget import NodeCost
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.network.remembered import forget
from methods.pruning.writing_out import put_together, write_out
from methods.seeds import stream
from secateurs.inputs import Samples, called_by_row, is_plain, tensor_of
from secateurs.result import PrunedNetwork, load

BATCHES = (1, 5)  # samples with which removed is compared with masked
TOLERANCE = 1e-5  # relative to the largest output, in single precision
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Finding:
    """What was found of one network.

    Attributes:
        name, about: those of the specimen.
        parameters: the parameters of the dense network.
        groups, nodes: that can be pruned, residual streams included.
        share: the share of the parameters that belong to prunable nodes, and are gone where no node is left.
        share_residual: the same with ``prune_residual=true``.
        difference: the largest one between outputs of the network without half of the nodes and of the one in which
            these are masked, relative to the largest output; None if there is no node.
        effect: the same between the latter and the dense network.
        cost_holds: whether claimed parameters and MACs are those that are counted.
        trains: whether all parameters of the smaller network take a finite step of training.
        reads_back: whether the smaller network computes the same after it was saved and loaded.
        left_alone: for each reason the layers that are left alone for it, numbers in their paths as ``#``.
        seconds: processor time of finding the groups.
    """

    name: str
    about: str
    parameters: int
    groups: int
    nodes: int
    share: float
    share_residual: float
    difference: float | None
    effect: float | None
    cost_holds: bool
    trains: bool
    reads_back: bool
    left_alone: Mapping[str, tuple[str, ...]]
    seconds: float


class Subject:
    """A network of the zoo with five samples, as the engine has to call it: with a tensor, or with row numbers."""

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen
        self.model = specimen.build()
        drawn = specimen.draw(max(BATCHES), stream(0, "zoo", specimen.name))
        self.samples = Samples(drawn if isinstance(drawn, Mapping) or len(drawn) > 1 else drawn[0])
        self.plain = is_plain(self.model, self.samples, CPU)
        self.example = self.samples.for_engine(self.plain, CPU)

    def called(self) -> AbstractContextManager[object]:
        """Inside, ``model`` and its copies take :attr:`example` and return one tensor."""
        return nullcontext() if self.plain else called_by_row(self.model, self.samples)

    def as_given(self, pruned: nn.Module) -> PrunedNetwork:
        """A copy of the dense network that was made smaller, of the network's own class again."""
        pruned.__class__ = type(self.model)
        return PrunedNetwork(put_together(pruned), example=self.samples.first(2, CPU))


def examine(specimen: Specimen, folder: Path) -> Finding:
    """Find the groups of a network, remove half of each, and look at what is left.

    Args:
        specimen: the network.
        folder: where the smaller network is saved to.
    """
    subject = Subject(specimen)
    forget()
    with subject.called():
        example = subject.example
        model = copy.deepcopy(subject.model)
        write_out(model, example)
        started = time.process_time()
        graphs = {residual: NetworkGraph(model, example, residual=residual) for residual in (False, True)}
        seconds = (time.process_time() - started) / 2
        shares = {residual: share(model, example, graph) for residual, graph in graphs.items()}
        differences, costs, smaller = [], [], model
        for graph in graphs.values():
            smaller, kept = halved(model, graph)
            costs.append(cost_holds(model, smaller, example, graph, kept))
            if kept:
                differences += [output_differences(model, smaller, example[:batch], graph, kept) for batch in BATCHES]
        trains = takes_a_step(put_together(copy.deepcopy(smaller)), example)
        parts = parts_on(model, example, residual=True)
    pruned = subject.as_given(smaller)
    groups = graphs[True].groups
    return Finding(
        specimen.name,
        specimen.about,
        sum(parameter.numel() for parameter in model.parameters()),
        len(groups),
        sum(group.size for group in groups),
        shares[False],
        shares[True],
        max((difference for difference, _ in differences), default=None),
        min((effect for _, effect in differences), default=None),
        all(costs),
        trains,
        reads_back(pruned, subject, folder),
        by_reason({part.name: part.reason for part in parts if part.reason}),
        seconds,
    )


def share(model: nn.Module, example: Tensor, graph: NetworkGraph) -> float:
    """The part of the parameters that is gone when all nodes are."""
    cost = NodeCost(model, example, graph.groups)
    return 1 - cost(dict.fromkeys(cost.sizes, 0)).compression / cost(cost.sizes).compression


def halved(model: nn.Module, graph: NetworkGraph) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy without a random half of each group's nodes, and the nodes that stayed."""
    kept = {}
    for group in graph.groups:
        order = torch.randperm(group.size, generator=stream(0, "zoo", group.name))
        kept[group.name] = order[: (group.size + 1) // 2].sort().values
    smaller = copy.deepcopy(model)
    left = NetworkGraph.of(smaller, graph.groups)
    for name, nodes in kept.items():
        left.remove(left.find(name), nodes)
    return smaller, kept


@torch.no_grad()
def output_differences(
    model: nn.Module, smaller: nn.Module, example: Tensor, graph: NetworkGraph, kept: Mapping[str, Tensor]
) -> tuple[float, float]:
    """How far removed is from masked, and masked from dense, relative to the largest output."""
    dense = tensor_of(model(example))
    with gated(model, graph.groups, kept):
        masked = tensor_of(model(example))
    removed = tensor_of(put_together(copy.deepcopy(smaller))(example))
    largest = float(masked.abs().max())
    return float((removed - masked).abs().max()) / largest, float((masked - dense).abs().max()) / largest


def cost_holds(
    model: nn.Module, smaller: nn.Module, example: Tensor, graph: NetworkGraph, kept: Mapping[str, Tensor]
) -> bool:
    """Whether parameters and MACs, as claimed beforehand, are those of the smaller network."""
    claimed = NodeCost(model, example, graph.groups)({name: len(nodes) for name, nodes in kept.items()})
    counted = sum(parameter.numel() for parameter in smaller.parameters()), count_macs(smaller, example)
    return (int(claimed.compression), int(claimed.speedup)) == counted


def takes_a_step(model: nn.Module, example: Tensor) -> bool:
    """Whether one step of gradient descent moves the network, by finite amounts."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    tensor_of(model.train()(example)).square().mean().backward()
    optimizer.step()
    after = list(model.parameters())
    moved = sum(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return moved > len(after) // 2 and all(bool(parameter.isfinite().all()) for parameter in after)


@torch.no_grad()
def reads_back(pruned: PrunedNetwork, subject: Subject, folder: Path) -> bool:
    """Whether the network that was saved computes, once it is loaded, what it did."""
    pruned.save(folder)
    loaded = load(folder, subject.model)
    args, kwargs = subject.samples.first(max(BATCHES), CPU)
    found, expected = (tensor_of(each.eval()(*args, **kwargs)) for each in (loaded.model, pruned.model))
    return torch.equal(found, expected)


def by_reason(reasons: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """For each reason the layers that it is given for; numbers in paths become ``#``, so that blocks are one line."""
    found: dict[str, dict[str, None]] = {}
    for path, reason in reasons.items():
        found.setdefault(_starred(reason), {})[_starred(path) or "the network"] = None
    return {reason: tuple(paths) for reason, paths in found.items()}


def _starred(text: str) -> str:
    """``blocks.3.fc1`` as ``blocks.#.fc1``."""
    return re.sub(r"(?<=\.)\d+(?=\.|\b)|(?<![\w.])\d+(?=\.\w)", "#", text)
