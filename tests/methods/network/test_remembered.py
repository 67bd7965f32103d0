"""Networks of one structure share their groups; whatever could make them differ makes them be found anew."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.network import remembered
from methods.network.coupling import find_groups
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Settings:
    """As libraries hand them to their modules."""

    def __init__(self, slope):
        self.slope = slope


class Network(nn.Module):
    def __init__(self, width=8, slope=0.1, gate=False):
        super().__init__()
        self.settings, self.gate = Settings(slope), gate
        self.first, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.inner, self.second = nn.Conv2d(width, 6, 3, padding=1), nn.Conv2d(6, width, 1)
        self.head = nn.Linear(width, 4)
        self.register_buffer("order", torch.arange(3))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        y = functional.leaky_relu(self.norm(self.first(x[:, self.order])), self.settings.slope)
        z = self.second(self.inner(y).relu()) * self.scale
        return self.head((y * z if self.gate else y + z).mean((2, 3)))


@pytest.fixture
def found(monkeypatch):
    """How many networks were tried since."""
    tried = []

    def counting(*arguments):
        tried.append(arguments)
        return find_groups(*arguments)

    monkeypatch.setattr(remembered, "find_groups", counting)
    remembered.forget()
    return tried


def made(seed=0, **options):
    torch.manual_seed(seed)
    return Network(**options)


def test_cells_of_several_seeds_methods_and_budgets_find_groups_once(found):
    groups = []
    for seed in range(3):
        for selection in (MagnitudeSelection(), RandomSelection()):
            for keep in (0.5, 0.75):
                images = IMAGES + seed
                samples = Calibration(images, torch.zeros(6, dtype=torch.int64), torch.arange(6))
                pruned = Pruner(selection).prune(made(seed).train(seed == 1), samples, Budget("keep", keep))
                groups.append(pruned.groups)
    assert len(found) == 1
    assert len(groups) == 12 and all(len(own) == len(groups[0]) for own in groups)


def test_what_is_remembered_is_what_would_be_found(found):
    model = made()
    first, again = NetworkGraph(model, IMAGES, residual=True), NetworkGraph(made(1), IMAGES[3:], residual=True)
    fresh, left = find_groups(made(1), IMAGES[3:], True)
    assert len(found) == 1 and first.groups is not again.groups
    assert again.left_alone == left
    for one, other in zip(again.groups, fresh, strict=True):
        assert (one.name, one.size, one.writers, one.carriers) == (
            other.name,
            other.size,
            other.writers,
            other.carriers,
        )
        assert all(torch.equal(a.columns, b.columns) for a, b in zip(one.readers, other.readers, strict=True))
    kept = torch.arange(4)
    first.remove(first.groups[0], kept)
    assert NetworkGraph(made(2), IMAGES, residual=True).groups[0].size == 8


class Other(Network):
    def forward(self, x):
        return super().forward(x).relu()


def shuffled():
    model = made()
    model.order = torch.tensor([1, 0, 2])
    return model


def tied():
    model = made()
    model.third = nn.Conv2d(6, 8, 1)
    model.third.weight = model.second.weight
    return model


def untied():
    model = made()
    model.third = nn.Conv2d(6, 8, 1)
    return model


def pruned_smaller():
    graph = NetworkGraph.of(made(), find_groups(made(), IMAGES, True)[0])
    graph.remove(graph.groups[0], torch.arange(5))
    return graph.model


def of_its_own():
    model = made()
    model.forward = lambda x: Network.forward(model, x)
    return model


OTHERS = {
    "width": (lambda: made(width=9), IMAGES, False),
    "setting": (lambda: made(slope=0.2), IMAGES, False),
    "flag": (lambda: made(gate=True), IMAGES, False),
    "class": (Other, IMAGES, False),
    "indices": (shuffled, IMAGES, False),
    "one layer more": (untied, IMAGES, False),
    "image": (made, IMAGES[:, :, :6], False),
    "residual": (made, IMAGES, True),
    "pruned": (pruned_smaller, IMAGES, False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_structure_is_tried_anew_and_then_remembered(name, found):
    factory, images, residual = OTHERS[name]
    NetworkGraph(made(), IMAGES)
    NetworkGraph(factory(), images, residual=residual)
    assert len(found) == 2
    NetworkGraph(factory(), images, residual=residual)
    assert len(found) == 2


def test_a_weight_that_is_shared_makes_another_structure(found):
    NetworkGraph(untied(), IMAGES)
    NetworkGraph(tied(), IMAGES)
    assert len(found) == 2


def test_what_cannot_be_compared_is_tried_each_time(found):
    hooked = made()
    hooked.second.register_forward_hook(lambda module, inputs, output: output)
    with_generator = made()
    with_generator.random = torch.Generator()
    for model in (hooked, with_generator, of_its_own()):
        before = len(found)
        for _ in range(2):
            NetworkGraph(model, IMAGES)
        assert len(found) == before + 2


def test_only_so_many_structures_are_kept(found):
    for width in range(2, 2 + remembered.KEPT + 1):
        NetworkGraph(nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, 3)), IMAGES)
    tried = len(found)
    NetworkGraph(nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Linear(2, 3)), IMAGES)
    assert tried == remembered.KEPT + 1 and len(found) == tried + 1
