"""HAP: channel traces against the explicit Hessian."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional

from methods.curvature.kfac import label_stream, sample_labels
from methods.errors import BadInput
from methods.hessian.hap import HAPSelection, channel_sensitivity, hutchinson_traces, layer_names
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 4, bias=False), nn.Softplus(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip


def calibration(n=10):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 2, 3, 3, generator=generator, dtype=torch.float64)
    return Calibration(inputs, torch.randint(3, (n,), generator=generator), torch.arange(n), seed=2)


def exact_traces(model, samples):
    """Traces of the channels' blocks of the explicit Hessian by all conv and linear weights, and its diagonal."""
    names = layer_names(model)
    weights = {f"{name}.weight": model.get_submodule(name).weight.detach() for name in names}

    def loss(*parts):
        chosen = dict(zip(weights, parts, strict=True))
        return functional.cross_entropy(functional_call(model.eval(), chosen, (samples.inputs,)), samples.labels)

    rows = hessian(loss, tuple(weights.values()))
    blocks = {key: dict(zip(weights, row, strict=True)) for key, row in zip(weights, rows, strict=True)}
    traces, full = {}, []
    for name in names:
        key, size = f"{name}.weight", weights[f"{name}.weight"].numel()
        traces[name] = blocks[key][key].reshape(size, size).diagonal().view(len(weights[key]), -1).sum(1)
        full.append(torch.cat([blocks[key][other].reshape(size, -1) for other in weights], 1))
    return traces, torch.cat(full)


def layers(model, samples):
    graph, shared = NetworkGraph(model, samples.inputs[:2]), {}
    return [NodeLayer(g, model, samples, torch.Generator(), lambda: [], shared) for g in graph.groups]


@pytest.mark.verifies("hap", by="brute force")
def test_mean_over_many_probes_is_the_trace_of_each_block_within_three_standard_errors():
    model, samples, probes = network(), calibration(), 400
    exact, full = exact_traces(model, samples)
    estimate = hutchinson_traces(
        model, layer_names(model), samples.inputs, samples.labels, probes, torch.Generator().manual_seed(0)
    )
    squares = full.square()
    start = 0
    for name in exact:
        size = model.get_submodule(name).weight[0].numel()
        for channel, trace in enumerate(exact[name]):
            own = slice(start, start + size)
            # Var sum_{i in p} v_i (Hv)_i: pairs inside the block meet twice, pairs across once
            inside = squares[own, own].sum() - squares[own, own].diagonal().sum()
            across = squares[own].sum() - squares[own, own].sum()
            error = float(((2 * inside + across) / probes).sqrt())
            assert abs(float(estimate[name][channel] - trace)) < 3 * error
            start += size


def test_channel_traces_sum_to_the_plain_hutchinson_trace_with_the_same_probes():
    model, samples, probes = network(), calibration(), 5
    names = layer_names(model)
    traces = hutchinson_traces(model, names, samples.inputs, samples.labels, probes, torch.Generator().manual_seed(3))
    _, full = exact_traces(model, samples)
    generator = torch.Generator().manual_seed(3)
    plain = 0.0
    for _ in range(probes):
        v = (2 * torch.randint(2, (len(full),), generator=generator) - 1).double()
        plain += float(v @ full @ v) / probes
    assert float(sum(trace.sum() for trace in traces.values())) == pytest.approx(plain, rel=1e-9)


def test_sensitivity_is_the_second_order_change_when_the_block_is_a_multiple_of_the_identity():
    weight = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    curvature = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    expected = torch.stack([row @ (c * torch.eye(5).double()) @ row for row, c in zip(weight, curvature, strict=True)])
    torch.testing.assert_close(channel_sensitivity(5 * curvature, weight), expected)


def test_model_is_left_alone_and_frozen_weights_give_the_same_traces():
    model, samples = network().train(), calibration()
    state = copy.deepcopy(model.state_dict())
    arguments = (layer_names(model), samples.inputs, samples.labels, 3)
    free = hutchinson_traces(model, *arguments, torch.Generator().manual_seed(0))
    model.requires_grad_(False)
    frozen = hutchinson_traces(model, *arguments, torch.Generator().manual_seed(0))
    for name in free:
        torch.testing.assert_close(frozen[name], free[name])
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("curvature", ["hessian", "fisher"])
def test_scores_are_one_per_node_not_negative_and_reproducible(curvature):
    model, samples = network(), calibration()
    selection = HAPSelection(curvature, probes=20)
    found = layers(model, samples)
    assert [layer.size for layer in found] == [3, 4]
    for layer, again in zip(found, layers(model, samples), strict=True):
        scores = selection.scores(layer)
        assert scores.shape == (layer.size,)
        assert bool((scores >= 0).all())
        assert torch.equal(scores, selection.scores(again))
        assert "trace" in selection.report(layer, torch.tensor([0]))


def test_negative_traces_count_as_zero_unless_clipping_is_off():
    model, samples = network(seed=3), calibration()
    exact, _ = exact_traces(model, samples)
    assert any(bool((trace < 0).any()) for trace in exact.values())  # far from a minimum
    clipped, plain = (HAPSelection(probes=200, clip=clip) for clip in (True, False))
    below = 0
    for layer in layers(model, samples):
        scores = plain.scores(layer)
        below += int((scores < 0).sum())
        assert torch.equal(clipped.scores(layer), scores.clamp_min(0))
    assert below > 0


def test_fisher_traces_are_mean_squared_single_gradients_of_the_weights_without_biases():
    model, samples = network().eval(), calibration(4)
    selection = HAPSelection("fisher")
    [first, _] = layers(model, samples)
    traces = selection.traces(first)
    labels = sample_labels(model(samples.inputs), samples.labels, label_stream(samples, "sampled"))
    expected = {name: 0 for name in layer_names(model)}
    for x, y in zip(samples.inputs, labels, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        for name in expected:
            expected[name] = expected[name] + model.get_submodule(name).weight.grad.flatten(1).square().sum(1) / 4
    for name in expected:
        torch.testing.assert_close(traces[name], expected[name])


def test_unknown_choices_are_explained():
    with pytest.raises(BadInput, match="hessian or fisher"):
        HAPSelection("gauss")
    with pytest.raises(BadInput, match="samples=0"):
        HAPSelection(samples=0)
