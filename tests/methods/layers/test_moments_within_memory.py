"""``calibration.memory``: moments that do not fit together are collected one after the other, and are the same."""

import gc
import weakref
from dataclasses import replace

import networks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput
from methods.layers import views
from methods.layers.statistics import Calibration, collect_moments
from methods.layers.views import edge_layers, edge_views, node_views, within
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner

WIDTHS = (12, 20, 16, 24, 8)
BYTES = [8 * width**2 for width in WIDTHS]


def network():
    layers = []
    for place, (inputs, outputs) in enumerate(zip((6, *WIDTHS), (*WIDTHS, 3), strict=True)):
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            linear.weight.copy_(networks.noise(outputs, inputs, seed=place) / inputs**0.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def samples(memory=None):
    return Calibration(networks.noise(50, 6, seed=9), torch.zeros(50, dtype=torch.long), batch_size=16, memory=memory)


def seen(kind, model, calibration):
    example = calibration.inputs[:2]
    if kind == "nodes":
        return node_views(model, NetworkGraph(model, example).groups, calibration, "seed")
    return edge_views(model, edge_layers(model, example), {}, calibration, "seed")


def seconds(layer):
    return [each.second for each in layer.moments] if layer.unit == "node" else [layer.moments.second]


@pytest.fixture
def quick_collections():
    """The collector of garbage looks only at what is made from the call on: all else takes it a quarter of a second."""
    yield gc.freeze
    gc.unfreeze()


@pytest.mark.parametrize("kind", ["nodes", "edges"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("memory", [max(BYTES), BYTES[1] + BYTES[2], sum(BYTES) + 8 * 36])
def test_moments_within_a_limit_are_those_without_one_and_no_more_are_kept(
    kind, backwards, memory, monkeypatch, quick_collections
):
    alive, largest, passes = weakref.WeakSet(), 0, 0

    def collected(*arguments):
        nonlocal largest, passes
        found = collect_moments(*arguments)
        passes += 1
        gc.collect()
        for moments in found.values():
            alive.add(moments.second)
        largest = max(largest, sum(second.numel() * second.element_size() for second in alive))
        return found

    model = network()
    free = [seconds(layer) for layer in seen(kind, model, samples())]
    quick_collections()
    monkeypatch.setattr(views, "collect_moments", collected)
    layers = seen(kind, model, samples(memory))
    order = list(enumerate(layers))[:: -1 if backwards else 1]
    for place, layer in order:
        assert all(torch.equal(own, expected) for own, expected in zip(seconds(layer), free[place], strict=True))
    assert 0 < largest <= memory
    assert (passes == 1) is (memory > sum(BYTES))
    assert passes <= len(layers)


def test_a_pruning_within_a_limit_is_the_one_without():
    model, budget = network(), Budget("keep", 0.5)
    pruner = Pruner(MagnitudeSelection(), compensation=LeastSquares())
    free, limited = (pruner.prune(model, samples(memory), budget).model for memory in (None, max(BYTES)))
    for (name, own), (other, expected) in zip(limited.named_parameters(), free.named_parameters(), strict=True):
        assert name == other and torch.equal(own, expected)


def test_a_layer_that_is_too_large_alone_is_named():
    with pytest.raises(BadInput, match=f"type calibration.memory={BYTES[0]} or more") as caught:
        seconds(seen("nodes", network(), samples(100))[0])
    assert len(str(caught.value).splitlines()) == 2
    assert replace(samples(), memory=5).memory == 5


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(9, 40), st.data())
def test_what_is_collected_together_fits_and_has_what_was_asked_for(sizes, memory, data):
    named = {str(place): size for place, size in enumerate(sizes)}
    wanted = data.draw(st.sampled_from(sorted(named)))
    been = data.draw(st.sets(st.sampled_from(sorted(named))))
    chosen = within(memory, named, wanted, been)
    assert chosen[0] == wanted and len(set(chosen)) == len(chosen)
    assert sum(named[name] for name in chosen) <= memory
    assert not been & set(chosen[1:])
    assert set(within(None, named, wanted, been)) == set(named)
