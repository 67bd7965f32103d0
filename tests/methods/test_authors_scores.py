"""Scores and masks against what the authors' own programs gave; tests/golden/authors_scores.json says how."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.allocation import ErdosRenyiKernel
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.layers.views import edge_views, node_views
from methods.network.graph import NetworkGraph
from methods.structured.chip import independence
from methods.structured.fpgm import summed_distances
from methods.structured.hrank import HRankSelection
from methods.unstructured.grasp import GraSPSelection
from methods.unstructured.lamp import lamp_scores
from methods.unstructured.snip import SNIPSelection
from methods.unstructured.sparsegpt import SparseGPTSelection, choose, inverse_factors, sweep
from methods.unstructured.synflow import SynFlowSelection
from methods.unstructured.wanda import WandaSelection
from secateurs.presets import pruner_of

pytestmark = pytest.mark.cpu("the numbers come from programs that ran on a CPU")
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "authors_scores.json").read_text(encoding="utf-8"))


def numbers(*shape, step, phase=0.1):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(step * i * i + phase + 0.5 * i).reshape(shape).float()


def samples(inputs, labels=None):
    return Calibration(inputs, torch.zeros(len(inputs), dtype=torch.long) if labels is None else labels)


def linear():
    """A layer of 32 weights and its view."""
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data = numbers(4, 8, step=0.37)
    return edge_views(nn.Sequential(layer), ["0"], {}, samples(numbers(40, 8, step=0.11, phase=0.3)), "test")[0]


def perceptron():
    network = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False))
    network[0].weight.data = numbers(6, 8, step=0.37) * 0.5
    network[2].weight.data = numbers(4, 6, step=0.53)
    return network


@pytest.mark.verifies("lamp", by="authors' program")
def test_lamp_scores_are_its_authors():
    network = perceptron()
    for place, expected in zip((0, 2), GOLDEN["lamp"]["scores"], strict=True):
        weight = network[place].weight.detach()
        found = lamp_scores(weight.double(), torch.ones_like(weight, dtype=torch.bool))
        assert torch.allclose(found, torch.tensor(expected).double(), rtol=1e-4, atol=1e-7)


@pytest.mark.verifies("lamp", by="authors' program")
@pytest.mark.parametrize("amount", ["0.25", "0.5", "0.75"])
def test_lamp_keeps_what_its_authors_program_keeps(amount):
    pruned = pruner_of("lamp").prune(perceptron(), samples(torch.zeros(4, 8)), Budget("keep", 1 - float(amount)))
    for place, expected in zip((0, 2), GOLDEN["lamp"][amount], strict=True):
        assert (pruned.model[place].weight != 0).int().tolist() == expected


@pytest.mark.parametrize("setting", sorted(GOLDEN["erk"]))
def test_erdos_renyi_kernel_densities_are_those_of_lamps_authors(setting):
    """What RigL and SET begin with; one weight of rounding apart."""
    shapes, _, _ = setting.rpartition(" ")
    dimensions = json.loads(shapes.replace("(", "[").replace(")", "]"))
    network = nn.Sequential(
        *(nn.Conv2d(s[1], s[0], s[2]) if len(s) == 4 else nn.Linear(s[1], s[0]) for s in dimensions)
    )
    views = edge_views(network, [name for name, _ in network.named_children()], {}, samples(torch.zeros(1)), "test")
    wanted = GOLDEN["erk"][setting]
    family = ErdosRenyiKernel().family(views, SNIPSelection())
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(family(middle).values()) < sum(wanted) else (low, middle)
    found = list(family(high).values())
    assert all(abs(own - theirs) <= 1 for own, theirs in zip(found, wanted, strict=True)), (found, wanted)


@pytest.mark.verifies("wanda", by="authors' program")
@pytest.mark.parametrize("amount", ["0.25", "0.5", "0.75"])
def test_wanda_keeps_what_its_authors_program_keeps(amount):
    layer = linear()
    kept = round(8 * (1 - float(amount)))
    mask = WandaSelection().select(layer, torch.full((4,), kept))
    assert torch.allclose(layer.weight * mask, torch.tensor(GOLDEN["wanda"][amount]).double(), atol=1e-5)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_two_of_four_as_the_authors(method):
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data = numbers(4, 8, step=0.37)
    pruner = pruner_of(method, allocation="n_m")
    data = samples(numbers(40, 8, step=0.11, phase=0.3))
    found = pruner.prune(nn.Sequential(layer, nn.Identity()), data, Budget("keep", 0.5)).model[0].weight.detach()
    assert torch.allclose(found, torch.tensor(GOLDEN[method]["2:4"]), atol=2e-4)


@pytest.mark.verifies("sparsegpt", by="authors' program")
@pytest.mark.parametrize("setting", ["0.5 in blocks of 8", "0.5 in blocks of 4", "0.25 in blocks of 4"])
def test_sparsegpt_chooses_and_repairs_as_its_authors_program(setting):
    """At the counts that it arrives at: its inclusive threshold removes one weight more of each block."""
    block = int(setting.rpartition(" ")[2])
    expected = torch.tensor(GOLDEN["sparsegpt"][setting]).double()
    counts = [int((part != 0).sum()) for part in expected.split(block, 1)]
    layer = linear()
    factor, _ = inverse_factors(layer, 0.01)
    mask = choose(layer.weight, factor, layer.live, counts, block)
    assert torch.equal(mask, expected != 0)
    assert torch.allclose(sweep(layer.weight, factor, mask), expected, atol=2e-4)
    if len(set(counts)) == 1:
        assert torch.equal(SparseGPTSelection(block=block).select(layer, sum(counts)), mask)


def convolutional():
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    for number, parameter in enumerate(network.parameters()):
        parameter.data = numbers(*parameter.shape, step=0.21 + 0.1 * number) * 0.5
    inputs = torch.cat([numbers(6, 2, 3, 3, step=0.07, phase=0.2 * batch) for batch in range(2)])
    labels = torch.cat([(torch.arange(6) + batch) % 3 for batch in range(2)])
    return edge_views(network, ["0", "3", "5"], {}, Calibration(inputs, labels, batch_size=6), "test")


@pytest.mark.verifies("snip", "grasp", "synflow", by="authors' program")
@pytest.mark.parametrize(
    ("method", "selection"),
    [("snip", SNIPSelection()), ("grasp", GraSPSelection(200.0)), ("synflow", SynFlowSelection())],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scores_before_training_are_those_of_the_program_that_compares_them(method, selection):
    """SNIP's up to their sum, GraSP's up to the absolute value of theirs, SynFlow's as they are."""
    layers = convolutional()
    for layer in layers:
        layer.shared.setdefault("layers", layers)
    found = [selection.scores(layer).double() for layer in layers]
    total = abs(float(sum(scores.sum() for scores in found))) if method != "synflow" else 1.0
    for scores, expected in zip(found, GOLDEN[method], strict=True):
        theirs = torch.tensor(expected).double()
        assert torch.allclose(scores / total, theirs, rtol=2e-3, atol=2e-3 * float(theirs.abs().max()))
        assert torch.equal(scores.flatten().argsort()[-3:], theirs.flatten().argsort()[-3:])


@pytest.mark.verifies("chip", by="authors' program")
@pytest.mark.parametrize(("name", "shape", "step"), [("chip", (5, 6, 4, 4), 0.13), ("chip wide", (4, 9, 2, 2), 0.31)])
def test_channel_independence_is_that_of_its_authors_program(name, shape, step):
    maps = (numbers(*shape, step=step).double() * 1e4).round() / 1e4
    assert independence(maps.flatten(2)).tolist() == pytest.approx(GOLDEN[name], rel=1e-4)


@pytest.mark.verifies("hrank", by="authors' program")
def test_ranks_of_feature_maps_are_those_of_its_authors_program():
    network = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    network[0].weight.data = numbers(5, 2, 3, 3, step=0.29)
    network[0].bias.data = numbers(5, step=0.41) - 0.6
    data = samples(numbers(12, 2, 6, 6, step=0.07))
    [layer] = node_views(network, NetworkGraph(network, data.inputs[:2]).groups, data, "test")
    assert HRankSelection().scores(layer).tolist() == pytest.approx(GOLDEN["hrank"], rel=1e-5)


@pytest.mark.verifies("fpgm", by="authors' program")
@pytest.mark.parametrize("amount", sorted(GOLDEN["fpgm"]))
def test_filters_near_the_geometric_median_are_those_of_its_authors_program(amount):
    distances = summed_distances(numbers(10, 3, 3, 3, step=0.17).double().flatten(1))
    kept = torch.zeros(10, dtype=torch.int)
    kept[distances.argsort(descending=True)[: 10 - round(10 * float(amount))]] = 1
    assert kept.tolist() == GOLDEN["fpgm"][amount]
