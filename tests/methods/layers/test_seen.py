"""What a layer offers a method equals what is computed directly from the network."""

import pytest
import torch
from networks import calibration, make
from torch.nn import functional

from methods.layers.views import edge_layers, edge_views, node_views
from methods.network.graph import NetworkGraph

DATA = calibration(50)  # two batches


def gradient_of(model, path, inputs, labels):
    loss = functional.cross_entropy(model(inputs), labels)
    return torch.autograd.grad(loss, model.get_submodule(path).weight)[0]


def read_by(model, path):
    """What the module at ``path`` reads of all samples at once."""
    seen = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(DATA.inputs)
    handle.remove()
    return seen[0]


def nodes(name):
    model = make(name)
    return model, node_views(model, NetworkGraph(model, DATA.inputs[:2], residual=True).groups, DATA, "seed")


def edges(name):
    model = make(name)
    return model, edge_views(model, edge_layers(model, DATA.inputs[:2]), {}, DATA, "seed")


@pytest.mark.parametrize("name", ["chain", "convolution", "batch_norm", "residual"])
def test_gradients_of_nodes_are_those_of_the_mean_loss(name):
    model, layers = nodes(name)
    for layer in layers:
        expected = [gradient_of(model, path, DATA.inputs, DATA.labels).flatten(1) for path in layer.writers]
        assert torch.allclose(layer.incoming_gradient, torch.cat(expected, 1).double(), rtol=1e-3, atol=1e-6)
        for reader, found in zip(layer.group.readers, layer.outgoing_gradient, strict=True):
            expected = reader.weights(gradient_of(model, reader.name, DATA.inputs, DATA.labels).double())
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
        samples = layer.sample_gradients()
        assert samples.shape == (50, *layer.incoming.shape)
        assert torch.allclose(samples.double().mean(0), layer.incoming_gradient, rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["chain", "convolution"])
def test_gradients_of_edges_are_those_of_the_mean_loss_and_of_single_samples(name):
    model, layers = edges(name)
    for layer in layers:
        expected = gradient_of(model, layer.name, DATA.inputs, DATA.labels).flatten(1).double()
        assert torch.allclose(layer.gradient, expected, rtol=1e-3, atol=1e-6)
        samples = layer.sample_gradients()
        assert samples.shape == (50, *layer.weight.shape)
        alone = gradient_of(model, layer.name, DATA.inputs[7:8], DATA.labels[7:8]).flatten(1)
        assert torch.allclose(samples[7], alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["chain", "convolution", "residual"])
def test_activations_come_batch_by_batch_and_make_the_moments(name):
    for layer in nodes(name)[1]:
        for place, moments in enumerate(layer.moments):
            batches = list(layer.activations(place))
            assert len(batches) == 2
            rows = torch.cat(batches, 1).double()
            assert rows.shape == (layer.size, moments.count)
            assert torch.allclose(rows @ rows.T / rows.shape[1], moments.second, rtol=1e-4, atol=1e-6)
    for layer in edges(name)[1]:
        rows = torch.cat(list(layer.activations()), 1).double()
        assert rows.shape == (layer.weight.shape[1], layer.moments.count)
        assert torch.allclose(rows.mean(1), layer.moments.mean, atol=1e-6)


def test_activations_are_what_the_reader_reads():
    model, layers = nodes("chain")
    assert torch.allclose(torch.cat(list(layers[0].activations()), 1), read_by(model, "3").T, atol=1e-6)


def test_scales_are_those_of_the_batch_norms_of_the_group():
    model, layers = nodes("batch_norm")
    assert [list(layer.scales) for layer in layers] == [["1"], ["4"]]
    for layer in layers:
        for path, scales in layer.scales.items():
            assert torch.equal(scales, model.get_submodule(path).weight.detach().double()[:, None])
    assert all(layer.scales == {} for layer in nodes("chain")[1])


@pytest.mark.parametrize("views", [nodes, edges])
def test_labels_are_the_calibration_labels_and_shared_things_are_computed_once(views):
    calls = []

    def compute():
        calls.append(1)
        return 42

    for layer in views("chain")[1]:
        assert layer.labels is DATA.labels
        assert layer.once(("mine", 1), compute) == 42
    assert calls == [1]
