"""Methods that score output units one by one leave groups whose nodes are several alone, and prune the rest."""

import pytest
import torch
from networks import noise, whole_numbers
from torch import nn
from torch.nn import functional

import secateurs
from methods import Budget, Pruner
from methods.baselines.magnitude import MagnitudeSelection
from methods.curvature.flatness import hessian_radius
from methods.errors import Skipped
from methods.hessian.flat_minimum import FlatMinimum
from methods.hessian.hap import HAPSelection, hutchinson_traces
from methods.hessian.kronecker import KroneckerCompensation
from methods.layers.statistics import Calibration
from methods.seeds import stream
from methods.structured.taylor import TaylorSelection
from methods.unstructured.grasp import GraSPSelection

X, LABELS = noise(6, 3, 6, 6, seed=1), whole_numbers(4, 6, seed=2)
TOKENS = noise(6, 5, 12, seed=3)
METHODS = ["obd_filter", "taylor", HAPSelection(probes=3), "kron_obd", "torch_pruning"]


class Shuffled(nn.Module):
    """A plain convolution, two of two groups with a shuffle between them, and a hidden layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 1)
        self.first, self.second = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, groups=2)
        self.hidden, self.head = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.first(self.b(self.a(x).relu()).relu()).relu()
        x = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(self.hidden(self.second(x).relu().mean((2, 3))).relu())


class Attended(nn.Module):
    """Attention in one fused call, and a hidden layer."""

    def __init__(self, hidden=True):
        super().__init__()
        torch.manual_seed(5)
        self.query, self.key, self.value, self.project = (nn.Linear(12, 12) for _ in range(4))
        self.hidden, self.head = nn.Linear(12, 8) if hidden else nn.Identity(), nn.Linear(8 if hidden else 12, 4)

    def forward(self, x):
        q, k, v = (own(x).unflatten(2, (-1, 4)).transpose(1, 2) for own in (self.query, self.key, self.value))
        read = self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head(functional.relu(self.hidden((x + self.project(read)).mean(1))))

    def attend(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)


class WrittenOut(Attended):
    """The same, step by step."""

    def attend(self, q, k, v):
        return (q @ k.transpose(2, 3) / 2).softmax(-1) @ v


class Encoder(nn.Module):
    """PyTorch's own, which writes its attention out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


def kept(pruned):
    return {row["name"]: (row["units"], row["kept"]) for row in pruned.layers}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_shuffled_channels_are_left_alone_and_the_rest_is_pruned(method):
    model = Shuffled().eval()
    pruned = secateurs.prune(model, X, LABELS, method, keep=0.5, allocation="uniform")
    assert kept(pruned) == {"a": (6, 3), "hidden": (6, 3)}
    assert set(pruned.left_alone) == {"b", "first", "second"}
    assert all("single output units" in reason for reason in pruned.left_alone.values())
    for path in ("first", "second"):
        assert torch.equal(pruned.model.get_submodule(path).weight, model.get_submodule(path).weight)
    assert pruned.model(X).shape == (6, 4)


@pytest.mark.parametrize("method", METHODS)
def test_heads_of_an_encoder_are_left_alone_and_its_hidden_layer_is_pruned(method):
    """``hap`` takes second derivatives of the fused attention here."""
    pruned = secateurs.prune(Encoder().eval(), TOKENS, LABELS, method, keep=0.5)
    assert kept(pruned) == {"encoder.layers.0.linear1": (16, 8)}
    assert "nodes" in pruned.left_alone["encoder.layers.0.self_attn.q_proj"]
    assert type(pruned.model.encoder.layers[0].self_attn) is nn.MultiheadAttention


def test_gates_and_norms_take_whole_nodes():
    gates = secateurs.prune(Shuffled().eval(), X, LABELS, TaylorSelection(gates=True), keep=0.5)
    assert set(kept(gates)) == {"a", "b", "first", "second", "hidden"} and not gates.left_alone
    repaired = Pruner(MagnitudeSelection(), compensation=KroneckerCompensation())
    data = Calibration(X, LABELS, torch.arange(6))
    assert set(kept(repaired.prune(Shuffled().eval(), data, Budget("keep", 0.5)))) == {"a", "hidden"}


def test_where_nothing_else_is_left_the_layer_is_named():
    with pytest.raises(Skipped, match=r"query: its nodes are attention heads of 4 output units each"):
        secateurs.prune(Attended(hidden=False).eval(), TOKENS, LABELS, HAPSelection(probes=1), keep=0.5)


def test_pruning_while_training_leaves_them_alone():
    model, schedule = Attended(), FlatMinimum(mu=0.1, every=1, start=0, end=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    schedule.begin(model, TOKENS, Budget("keep", 0.5), 2)
    for epoch in range(2):
        loss = schedule.on_step_loss(model, TOKENS, LABELS, functional.cross_entropy(model(TOKENS), LABELS), epoch)
        optimizer.zero_grad()
        loss.backward()
        schedule.after_step(model, optimizer, epoch)
        optimizer.step()
        schedule.on_epoch(model, optimizer, epoch)
    assert schedule.widths == {"hidden": 4} and model.query.out_features == 12


def test_second_derivatives_of_fused_attention_are_those_of_attention_step_by_step():
    fused, plain = Attended(), WrittenOut()
    traces = [
        hutchinson_traces(model, ["query", "value"], TOKENS, LABELS, 3, stream(0, "probes")) for model in (fused, plain)
    ]
    for path, own in traces[0].items():
        assert bool(own.abs().max() > 1e-4)
        torch.testing.assert_close(own, traces[1][path], rtol=1e-3, atol=1e-6)
    radii = [hessian_radius(model, TOKENS, LABELS)[0].value for model in (fused, plain)]
    assert radii[0] == pytest.approx(radii[1], rel=1e-2)
    masks = [secateurs.prune(own, TOKENS, LABELS, GraSPSelection(), keep=0.5).masks for own in (fused, plain)]
    assert masks[0].keys() == masks[1].keys() and "query.weight" in masks[0]
    for name, mask in masks[0].items():
        assert float((mask == masks[1][name]).float().mean()) > 0.98  # but for ties by rounding
