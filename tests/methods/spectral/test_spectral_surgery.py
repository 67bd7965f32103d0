"""Surgery with spectral pruning on every kind of layer: exact where nodes are redundant, bounded where they are not."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make, noise
from torch import nn
from torch.nn import functional

from benchmarks.models import VGG, LeNet5, ResNet
from methods.allocation import Explicit
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.errors import Skipped
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.network.reading import evaluating
from methods.pruner import Pruner
from methods.seeds import stream
from methods.spectral.greedy import Metric
from methods.spectral.selection import SpectralSelection, information_loss, reconstruction_matrix

pytestmark = pytest.mark.slow


class Flattened(nn.Module):
    """A convolution whose positions a linear layer reads one by one, with a stride and an average pool between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.relu1 = nn.ReLU()
        self.second = nn.Conv2d(8, 6, 2, dilation=2)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(6 * 6 * 6, 4)

    def forward(self, x):
        return self.head(self.flatten(self.relu2(self.second(self.relu1(self.first(x))))))


BUILDERS = {
    "flattened": (Flattened, (1, 16, 16)),
    "lenet5": (lambda: LeNet5(shape=(1, 28, 28), classes=4), (1, 28, 28)),
    "vgg11": (lambda: VGG(11, 1 / 16, shape=(1, 32, 32), classes=4), (1, 32, 32)),
    "resnet8": (lambda: ResNet(8, 0.5, shape=(1, 8, 8), classes=4), (1, 8, 8)),
}


def inputs(shape, n=300, seed=0):
    return torch.randn(n, *shape, generator=stream(seed, "surgery"), dtype=torch.float64)


def seen(shape, n=300, seed=0):
    return Calibration(inputs(shape, n, seed), torch.zeros(n, dtype=torch.int64), torch.arange(n), batch_size=100)


@torch.no_grad()
def network(name):
    """In float64 and alive: batch-norm statistics that are not the initial ones, biases that keep nodes active."""
    build, shape = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                module.bias.normal_(std=0.3).add_(0.3)
            if isinstance(module, nn.Linear):
                module.weight.mul_(2)  # no unit of a linear layer is dead on the calibration data, or always active
    return model.eval(), shape


@torch.no_grad()
def with_duplicates(name, residual):
    """Node 2i + 1 of every group equals node 2i."""
    model, shape = network(name)
    groups = NetworkGraph(model, inputs(shape, 2), residual=residual).groups
    for group in groups:
        for path in (*group.writers, *group.carriers):
            module = model.get_submodule(path)
            for tensor in [module.weight, module.bias, *module.buffers()]:
                if tensor is not None and tensor.ndim:
                    tensor[1::2] = tensor[: tensor.shape[0] - tensor.shape[0] % 2 : 2]
    return model, shape, groups


@pytest.mark.parametrize("procedure,refit", [("simultaneous", None), ("backward", None), ("simultaneous", True)])
@pytest.mark.parametrize(
    "name,residual",
    [("flattened", False), ("lenet5", False), ("vgg11", False), ("resnet8", False), ("resnet8", True)],
)
def test_duplicated_channels_are_removed_exactly(name, residual, procedure, refit):
    model, shape, groups = with_duplicates(name, residual)
    assert any(len(group.writers) > 1 for group in groups) == residual
    pruner = Pruner(
        SpectralSelection(lam=0, procedure=procedure),
        Explicit({group.name: (group.size + 1) // 2 for group in groups}),
        LeastSquares(refit=refit),
        prune_residual=residual,
    )
    pruned = pruner.prune(model, seen(shape), Budget("keep", 0.5))
    assert all(len(pruned.kept[group.name]) == (group.size + 1) // 2 for group in groups)
    fresh = inputs(shape, 50, seed=9)
    with torch.no_grad():
        expected, actual = model(fresh), pruned.model(fresh)
    assert float((expected - actual).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kernel,stride,padding", [(1, 1, 0), (3, 1, 1), (3, 2, 0), (5, 2, 2), (2, 3, 1)])
def test_a_multiple_of_a_channel_is_absorbed_for_any_kernel_stride_and_padding(kernel, stride, padding):
    x = torch.randn(40, 5, 9, 9, generator=stream(0, "x"), dtype=torch.float64).clamp(min=0)
    x[:, 3] = 2.5 * x[:, 1]
    weight = torch.randn(4, 5, kernel, kernel, generator=stream(1, "w"), dtype=torch.float64)
    kept = torch.tensor([0, 1, 2, 4])
    flat = x.transpose(0, 1).flatten(1)
    matrix = reconstruction_matrix(flat @ flat.T / flat.shape[1], kept)
    torch.testing.assert_close(matrix[3], torch.tensor([0, 2.5, 0, 0]).double(), rtol=0, atol=1e-9)
    before = functional.conv2d(x, weight, stride=stride, padding=padding)
    merged = torch.einsum("ocuv,ck->okuv", weight, matrix)
    after = functional.conv2d(x[:, kept], merged, stride=stride, padding=padding)
    assert torch.allclose(before, after, atol=1e-9)


@given(st.integers(0, 1000), st.sampled_from([1, 2, 3]), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_output_error_of_a_convolution_is_at_most_its_kernel_size_times_the_loss(seed, half, k):
    kernel, nodes = 2 * half - 1, 5
    x = torch.randn(20, nodes, 8, 8, generator=stream(seed, "x"), dtype=torch.float64).clamp(min=0)
    x = x + x.roll(1, 3) + x.roll(1, 1)  # correlated positions and channels
    weight = torch.randn(6, nodes, kernel, kernel, generator=stream(seed, "w"), dtype=torch.float64)
    kept = torch.randperm(nodes, generator=stream(seed, "kept"))[:k]
    flat = x.transpose(0, 1).flatten(1)
    covariance = flat @ flat.T / flat.shape[1]
    rows = weight.permute(0, 2, 3, 1).reshape(-1, nodes)
    loss = float(information_loss(covariance, kept, None, Metric.of(0.0, rows)))
    merged = torch.einsum("ocuv,ck->okuv", weight, reconstruction_matrix(covariance, kept))
    before = functional.conv2d(x, weight, padding=half - 1)
    after = functional.conv2d(x[:, kept], merged, padding=half - 1)
    error = float((before - after).square().sum(1).mean())
    assert error <= kernel**2 * loss * (1 + 1e-9)
    if kernel == 1:
        assert error == pytest.approx(loss, rel=1e-8)


def test_a_1x1_convolution_is_pruned_like_a_linear_layer_on_its_positions():
    convolution = nn.Sequential(nn.Conv2d(3, 10, 1), nn.ReLU(), nn.Conv2d(10, 4, 1)).double().eval()
    linear = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 4)).double().eval()
    with torch.no_grad():
        for place in (0, 2):
            linear[place].weight.copy_(convolution[place].weight[:, :, 0, 0])
            linear[place].bias.copy_(convolution[place].bias)
    images = inputs((3, 6, 6), 30)
    rows = images.permute(0, 2, 3, 1).reshape(-1, 3)
    pruner = Pruner(SpectralSelection(), compensation=LeastSquares())
    first, second = (
        pruner.prune(model, Calibration(x, torch.zeros(len(x)), torch.arange(len(x))), Budget("keep", 0.4))
        for model, x in ((convolution, images), (linear, rows))
    )
    assert torch.equal(first.kept["0"], second.kept["0"])
    assert torch.allclose(first.model[2].weight[:, :, 0, 0], second.model[2].weight, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name,residual", [(name, False) for name in BUILDERS] + [("resnet8", True)])
def test_shapes_parameters_and_kept_rows(name, residual):
    model, shape = network(name)
    before = copy.deepcopy(model.state_dict())
    model.train()
    pruner = Pruner(SpectralSelection(), compensation=LeastSquares(), prune_residual=residual)
    pruned = pruner.prune(model, seen(shape, 40), Budget("keep", 0.5))
    assert model.training and pruned.model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    writer = {path: group for group in pruned.groups for path in group.writers}
    reader = {each.name: group for group in pruned.groups for each in group.readers}
    for path, module in pruned.model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        old = model.get_submodule(path)
        outs = writer[path].size if path in writer else old.weight.shape[0]
        ins = old.weight.shape[1]
        if path in reader:
            group = reader[path]
            [kept_of_reader] = [each for each in group.readers if each.name == path]
            ins = kept_of_reader.columns.numel()
        assert module.weight.shape[:2] == (outs, ins)
    first = next(path for path, _ in model.named_modules() if path in writer)
    stays = pruned.kept[writer[first].name]
    assert torch.equal(pruned.model.get_submodule(first).weight, model.get_submodule(first).weight[stays])
    with evaluating(pruned.model), torch.no_grad():
        assert torch.isfinite(pruned.model(inputs(shape, 3))).all()


def test_covariances_are_collected_in_evaluation_mode():
    model, shape = network("vgg11")
    model.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))
    pruner = Pruner(SpectralSelection(), compensation=LeastSquares())
    first = pruner.prune(model.train(), seen(shape, 40), Budget("keep", 0.5)).model
    second = pruner.prune(model.eval(), seen(shape, 40), Budget("keep", 0.5)).model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_refitting_on_the_pruned_inputs_helps_where_errors_add_up():
    model = make("chain", seed=2).double()
    data = calibration(400)
    data = Calibration(data.inputs.double(), data.labels, data.indices, batch_size=100)
    errors = []
    for refit in (False, True):
        pruned = Pruner(SpectralSelection(), compensation=LeastSquares(refit=refit)).prune(
            model, data, Budget("keep", 0.4)
        )
        with torch.no_grad():
            errors.append(float((model(data.inputs) - pruned.model(data.inputs)).norm()))
    plain = Pruner(SpectralSelection(), compensation=Compensation()).prune(model, data, Budget("keep", 0.4)).model
    with torch.no_grad():
        errors.append(float((model(data.inputs) - plain(data.inputs)).norm()))
    assert errors[1] < errors[0] < errors[2]


class Grouped(nn.Module):
    def __init__(self, between) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.between = between
        self.last = nn.Conv2d(8, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(self.last(self.between(self.first(x)))).flatten(1)


class Rolled(nn.Module):
    """The last channel first."""

    def forward(self, x):
        return x.roll(1, 1)


def test_a_channel_shuffle_loses_as_many_channels_of_each_group():
    model = Grouped(nn.Sequential(nn.ChannelShuffle(2), nn.ReLU())).eval()
    graph = NetworkGraph(model, noise(2, 1, 8, 8))
    assert {group.name: (group.size, group.width) for group in graph.groups} == {"first": (4, 2)}
    kept = {"first": torch.tensor([1, 3])}
    inputs = noise(5, 1, 8, 8)
    with torch.no_grad(), gated(model, graph.groups, kept):
        closed = model(inputs)
    graph.remove(graph.find("first"), kept["first"])
    with torch.no_grad():
        assert model.first.out_channels == 4 and torch.allclose(model(inputs), closed, atol=1e-5)


@pytest.mark.parametrize(
    "between,path",
    [
        (nn.LayerNorm([8, 8, 8]), "between"),
        (nn.Sequential(nn.ReLU(), nn.LayerNorm([8, 8, 8])), "between.1"),
        (nn.Sequential(Rolled(), nn.ReLU()), "last"),  # whose reader gets the nodes in another order
    ],
)
def test_a_layer_that_is_not_supported_is_named_with_its_path(between, path):
    model = Grouped(between).eval()
    before = copy.deepcopy(model.state_dict())
    data = Calibration(noise(20, 1, 8, 8), torch.zeros(20), torch.arange(20))
    graph = NetworkGraph(model, data.inputs)
    assert not graph.groups and set(graph.left_alone) == {"first"}
    assert re.match(rf"{re.escape(path)} ", graph.left_alone["first"])
    with pytest.raises(Skipped, match=re.escape(path)) as error:
        Pruner(SpectralSelection()).prune(model, data, Budget("keep", 0.5))
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_random_nodes_of_a_duplicated_network_are_not_exact():
    model, shape, _ = with_duplicates("lenet5", False)
    pruned = Pruner(RandomSelection(), compensation=LeastSquares()).prune(model, seen(shape, 60), Budget("keep", 0.5))
    with torch.no_grad():
        assert not torch.allclose(pruned.model(inputs(shape, 20)), model(inputs(shape, 20)), atol=1e-3)
