"""Counts against hand counts; every case is one that a published counter gets wrong."""

import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import make, noise
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure.count import count, count_layers
from benchmarks.models import MLP, VGG, LeNet5, ResNet


def macs(model, *shape):
    return count(model, torch.zeros(2, *shape)).macs


def by_name(model, *shape):
    return {layer.name: layer for layer in count_layers(model, torch.zeros(2, *shape))}


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    zeroed=st.floats(0, 1),
)
def test_convolutions_of_every_kind(groups, per_group, kernel, stride, padding, dilation, zeroed):
    fan_in, fan_out = groups * per_group[0], groups * per_group[1]
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride, padding, dilation, groups)
    nn.init.ones_(conv.weight)
    flat = conv.weight.data.view(-1)
    flat[: int(zeroed * len(flat))] = 0
    side = (9 + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    [layer] = count_layers(conv, torch.zeros(2, fan_in, 9, 9))
    assert layer.macs == fan_out * side * side * per_group[0] * kernel * kernel
    assert layer.macs_effective == int(torch.count_nonzero(flat)) * side * side
    assert layer.parameters == len(flat) + fan_out


def test_depthwise_and_separable():
    model = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.Conv2d(6, 10, 1, bias=False))
    assert macs(model, 6, 5, 5) == 6 * 9 * 25 + 60 * 25
    with torch.no_grad():
        model[0].weight[:2] = 0
    assert by_name(model, 6, 5, 5)["0"].macs_effective == 4 * 9 * 25


def test_an_unpadded_convolution_counts_its_own_positions():
    assert macs(nn.Conv2d(1, 20, 5), 1, 28, 28) == 20 * 25 * 24 * 24


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (4, 10), 4 * 6 * 3 * 10),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 2 * 3 * 8 * 27),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 4 * 3 * 9 * 25),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (11, 7), 11 * 35),
        (nn.Linear(7, 5, bias=False), (3, 11, 7), 33 * 35),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)), (1, 4, 4), 32),
    ],
)
def test_hand_counts(model, shape, expected):
    assert macs(model, *shape) == expected


def test_networks_of_the_benchmark():
    assert macs(LeNet5(shape=(1, 28, 28), classes=10), 1, 28, 28) == (
        6 * 25 * 28**2 + 16 * 6 * 25 * 10**2 + 400 * 120 + 120 * 84 + 84 * 10
    )
    stages = [3 * 16 * 9 * 32**2 + 6 * 16 * 16 * 9 * 32**2]
    for channels, out, side in ((16, 32, 16), (32, 64, 8)):
        stages.append((channels * out * 9 + 5 * out * out * 9 + channels * out) * side**2)
    assert macs(ResNet(20, shape=(3, 32, 32), classes=10), 3, 32, 32) == sum(stages) + 64 * 10


class Attention(nn.Module):
    """Self-attention written with the functional call that is a single fused kernel."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.hardware("an emulated device has no fused attention")
def test_attention_products():
    layers = by_name(Attention(), 5, 8)
    assert {name: layer.macs for name, layer in layers.items()} == {
        "": 2 * 5 * 5 * 8,  # Q K^T and A V over all heads
        "qkv": 5 * 8 * 24,
        "out": 5 * 8 * 8,
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Attention().eval()(torch.zeros(1, 5, 8))
    assert counter.get_total_flops() // 2 == 5 * 8 * 32, "torch now counts fused attention: say so in docs/measuring.md"


def test_transformer_layers_in_spite_of_their_fast_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    rows = by_name(layer, 5, 8)
    assert rows["self_attn"].macs == 5 * 8 * 24 + 2 * 5 * 5 * 8
    assert rows["self_attn.out_proj"].macs == 5 * 64
    assert sum(row.macs for row in rows.values()) == 5 * 8 * 8 * 4 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.hardware("an emulated device has no fused recurrent cells")
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_steps(kind, gates):
    network = kind(4, 6, batch_first=True)
    assert macs(network, 7, 4) == 7 * gates * 6 * (4 + 6)
    with torch.no_grad():
        network.weight_hh_l0.zero_()
    assert count(network, torch.zeros(1, 7, 4)).macs_effective == 7 * gates * 6 * 4
    assert torch.backends.mkldnn.enabled


class Steps(nn.Module):
    """A cell that is called several times, and a decoder with the encoder's own weight."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4, bias=False)
        self.cell = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = nn.Parameter(noise(6, 4))
        self.embedding = nn.Embedding(9, 6)
        self.logits = nn.Linear(6, 9, bias=False)
        self.logits.weight = self.embedding.weight

    def forward(self, x):
        x = self.encoder(x)
        for _ in range(3):
            x = self.cell(x)
        x = self.decoder(x)
        return self.logits(x) + functional.linear(x, self.embedding.weight)


def test_shared_modules_and_tied_weights():
    model = Steps()
    rows = by_name(model, 6)
    assert rows["cell"].macs == 3 * 16
    assert rows["logits"].macs == 54 and rows["embedding"].macs == 54
    assert rows["embedding"].parameters == 54 and rows["logits"].parameters == 0
    total = count(model, torch.zeros(1, 6))
    assert total.parameters == sum(parameter.numel() for parameter in model.parameters()) == 24 + 20 + 24 + 54
    assert total.macs == 24 + 48 + 24 + 108


class Sliced(nn.Module):
    """Reads only a part of its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 4))

    def forward(self, x):
        return functional.linear(x, self.weight[:3])


def test_effective_counts_look_at_the_part_that_is_used():
    model = Sliced()
    with torch.no_grad():
        model.weight[3:] = 0
        model.weight[0] = 0
    result = count(model, torch.zeros(1, 4))
    assert (result.macs, result.macs_effective) == (12, 8)
    assert type(result.macs_effective) is int  # records round floats to seven digits
    assert (result.parameters, result.nonzero) == (24, 8)


NETWORKS = {
    "mlp": (lambda: MLP((20, 30), shape=(1, 8, 8), classes=10), (1, 8, 8)),
    "lenet5": (lambda: LeNet5(shape=(1, 28, 28), classes=10), (1, 28, 28)),
    "vgg11": (lambda: VGG(11, 0.25, shape=(3, 32, 32), classes=10), (3, 32, 32)),
    "resnet20": (lambda: ResNet(20, 0.5, shape=(3, 32, 32), classes=10), (3, 32, 32)),
    "residual": (lambda: make("residual"), (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_torch_where_that_sees_everything(name):
    factory, shape = NETWORKS[name]
    model = factory().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    assert macs(model, *shape) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_what_torch_pruning_counts_more_is_known_to_the_unit(name):
    """Biases, 2 per output of a batch norm, 1 per output of a ReLU module and 1 per input of a pooling module."""
    factory, shape = NETWORKS[name]
    model, more = factory().eval(), []

    def hook(module, inputs, output):
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            more.append(output.numel())
        elif isinstance(module, nn.BatchNorm2d):
            more.append(2 * output.numel())
        elif isinstance(module, nn.ReLU):
            more.append(output.numel())
        elif isinstance(module, nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            more.append(inputs[0].numel())

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    example = torch.zeros(1, *shape)
    model(example)
    for handle in handles:
        handle.remove()
    theirs, parameters = tp.utils.count_ops_and_params(model, example)
    ours = count(model, example)
    assert theirs - ours.macs == sum(more) > 0
    assert parameters == ours.parameters


def test_layers_add_up_and_masked_weights_count_less():
    model = make("residual")
    with torch.no_grad():
        model.first[0].weight[3] = 0
    example = torch.zeros(3, 1, 8, 8)
    total, layers = count(model, example), count_layers(model, example)
    for field in ("parameters", "nonzero", "macs", "macs_effective"):
        assert sum(getattr(layer, field) for layer in layers) == getattr(total, field)
    assert total.macs - total.macs_effective == 8 * 9 * 64
    assert total.parameters - total.nonzero == 72


def test_the_network_is_left_as_it_was():
    model = make("batch_norm").train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    count(model, noise(2, 1, 8, 8))
    random_after_drawing = torch.get_rng_state()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.nn.modules.module._global_forward_hooks == {}
    torch.set_rng_state(random)
    noise(2, 1, 8, 8)
    assert torch.equal(torch.get_rng_state(), random_after_drawing)


def test_hooks_are_gone_after_a_failure():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4)).train()
    with pytest.raises(RuntimeError):
        count(model, torch.zeros(1, 3))
    assert model.training
    assert torch.nn.modules.module._global_forward_pre_hooks == {}
    assert torch.nn.modules.module._global_forward_hooks == {}
