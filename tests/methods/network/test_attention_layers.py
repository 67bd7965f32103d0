"""nn.MultiheadAttention: written out it computes the same, and loses whole heads as any attention does."""

import copy

import pytest
import torch
from networks import noise, whole_numbers
from torch import nn

import secateurs
from methods.allocation import Explicit
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.pruning.attention import SeparateAttention
from methods.pruning.writing_out import put_together, write_out

X = noise(5, 6, 12, seed=2)
LABELS = whole_numbers(3, 5, seed=3)


def attention(**settings):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, **settings)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))  # its biases are zero else
    return layer.eval()


class Attended(nn.Module):
    """Attention over a sequence, and what is made of its mean; ``context`` attends to another one."""

    def __init__(self, context=0, weights=False, **settings):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.weights, self.context = nn.Linear(12, 12), weights, context
        self.attention = attention(**settings)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.embed(x)
        seen = x if not self.context else x[:, :4, : self.context]
        if not self.attention.batch_first:
            x, seen = x.transpose(0, 1), seen.transpose(0, 1)
        written, _ = self.attention(x, seen, seen, need_weights=self.weights)
        return self.head(written.mean(1 if self.attention.batch_first else 0))


MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(6, 6, dtype=torch.bool).triu(1)},
    "hint": {"attn_mask": torch.ones(6, 6, dtype=torch.bool).triu(1), "is_causal": True},
    "numbers": {"attn_mask": noise(6, 6, seed=4)},
    "padding": {"key_padding_mask": torch.arange(6) >= torch.tensor([[6], [3], [5], [4], [1]])},
    "each head": {"attn_mask": noise(15, 6, 6, seed=5)},
    "both": {"attn_mask": noise(6, 6, seed=4), "key_padding_mask": noise(5, 6, seed=6)},
}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_written_out_it_computes_the_same(masks, batch_first):
    own = attention(batch_first=batch_first)
    x = X if batch_first else X.transpose(0, 1)
    for settings in ({"need_weights": False}, {}, {"average_attn_weights": False}):
        expected, expected_weights = own(x, x, x, **MASKS[masks], **settings)
        found, weights = SeparateAttention(own)(x, x, x, **MASKS[masks], **settings)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("settings", [{"bias": False}, {"kdim": 5, "vdim": 7}, {"kdim": 5, "bias": False}])
@torch.no_grad()
def test_also_of_other_keys_and_of_a_single_sample(settings):
    own = attention(batch_first=True, **settings)
    query, key, value = X, noise(5, 9, own.kdim, seed=7), noise(5, 9, own.vdim, seed=8)
    for arguments in ((query, key, value), (query[0], key[0], value[0])):
        for found, expected in zip(SeparateAttention(own)(*arguments), own(*arguments), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", [{}, {"bias": False, "dropout": 0.2}, {"context": 5, "kdim": 5, "vdim": 5}])
def test_put_together_it_is_the_same_layer(settings):
    model = Attended(batch_first=True, **settings)
    model.attention.requires_grad_(False)
    before = copy.deepcopy(model)
    drawn = torch.random.get_rng_state()
    assert write_out(model, X)
    assert isinstance(model.attention, SeparateAttention) and model.attention.num_heads == 3
    put_together(model)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert type(model.attention) is nn.MultiheadAttention
    assert {name: (value.shape, value.requires_grad) for name, value in model.named_parameters()} == {
        name: (value.shape, value.requires_grad) for name, value in before.named_parameters()
    }
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in model.state_dict().items())
    plain = [{n: v for n, v in vars(each.attention).items() if not n.startswith("_")} for each in (model, before)]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("settings", [{"batch_first": True}, {}, {"context": 5, "kdim": 5, "vdim": 5}])
def test_heads_that_are_removed_are_heads_that_are_closed_off(settings, weights, tmp_path):
    model = Attended(weights=weights, **settings)
    written = copy.deepcopy(model)
    assert write_out(written, X)
    graph = NetworkGraph(written, X)
    heads = graph.find("attention.q_proj")
    assert (heads.size, heads.width, [reader.name for reader in heads.readers]) == (3, 4, ["attention.out_proj"])
    pruned = secateurs.prune(model, X, LABELS, "random", keep=0.5, allocation=Explicit({"attention.q_proj": 1}))
    assert isinstance(pruned.model.attention, SeparateAttention) and pruned.model.attention.num_heads == 1
    left = pruned.model.attention.out_proj.weight
    [kept] = [head for head in range(3) if torch.equal(left, model.attention.out_proj.weight[:, 4 * head :][:, :4])]
    with gated(written, graph.groups, {"attention.q_proj": torch.tensor([kept])}), torch.no_grad():
        expected = written(X)
        assert not torch.allclose(expected, model(X), atol=1e-3)
        torch.testing.assert_close(pruned.model(X), expected, rtol=1e-5, atol=1e-5)
    parameters = [sum(each.numel() for each in net.parameters()) for net in (model, pruned.model)]
    assert pruned.achieved["compression"] == pytest.approx(parameters[0] / parameters[1])
    assert pruned.achieved["speedup"] == pytest.approx(count_macs(model, X) / count_macs(pruned.model, X))
    pruned.save(tmp_path)
    for given in ((), (model,)):
        torch.testing.assert_close(secateurs.load(tmp_path, *given).model.to(X.device)(X), pruned.model(X))


def test_what_fits_is_pytorchs_own_again():
    """Two of four heads, and half of what is read: eight numbers in and out, two heads of four."""
    model = Attended(batch_first=True)
    write_out(model, X)
    graph = NetworkGraph(model, X)
    graph.remove(graph.find("attention.q_proj"), torch.tensor([0, 2]))
    graph.remove(graph.find("embed"), torch.arange(8))
    whole = copy.deepcopy(model)
    whole.attention.out_proj = nn.Linear(8, 8)
    put_together(model)
    assert isinstance(model.attention, SeparateAttention)  # it writes twelve
    put_together(whole)
    assert type(whole.attention) is nn.MultiheadAttention
    assert (whole.attention.embed_dim, whole.attention.num_heads) == (8, 2)
    assert whole.attention(X[..., :8], X[..., :8], X[..., :8])[0].shape == (5, 6, 8)


def test_masks_of_edges_have_the_names_of_the_layers_own_parameters():
    for settings in ({}, {"context": 5, "kdim": 5, "vdim": 5}):
        model = Attended(**settings)
        pruned = secateurs.prune(model, X, LABELS, "magnitude_edge", keep=0.4)
        assert type(pruned.model.attention) is nn.MultiheadAttention
        parameters = dict(pruned.model.named_parameters())
        inside = ["in_proj_weight"] if not settings else [f"{part}_proj_weight" for part in "qkv"]
        assert {f"attention.{name}" for name in (*inside, "out_proj.weight")} < set(pruned.masks)
        for name, mask in pruned.masks.items():
            assert bool((parameters[name][~mask] == 0).all()) and mask.shape == parameters[name].shape
            assert not bool(mask.all())


def test_survivors_go_back_to_earlier_weights():
    model, initial = Attended(), Attended()
    with torch.no_grad():
        for parameter in initial.parameters():
            parameter.mul_(2)
    only = {"allocation": Explicit({"attention.q_proj": 1}), "schedule": "lottery", "initial": initial}
    pruned = secateurs.prune(model, X, LABELS, "random", keep=0.5, **only)
    whole = initial.attention.in_proj_weight
    assert all(bool((whole == row).all(1).any()) for row in pruned.model.attention.q_proj.weight)


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_keys_that_are_added_are_left_alone_with_a_reason(settings):
    model = Attended(batch_first=True, **settings)
    assert not write_out(model, X)
    graph = NetworkGraph(model, X)
    assert not graph.groups and "MultiheadAttention" in graph.left_alone["embed"]


class Encoder(nn.Module):
    """PyTorch's encoder over sequences with padding, of which it takes no account after it."""

    def __init__(self, batch_first=True):
        super().__init__()
        torch.manual_seed(2)
        layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=batch_first)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first), nn.Linear(12, 3)

    def forward(self, x):
        gone = x[..., 0] == 0
        first = self.encoder.layers[0].self_attn.batch_first
        y = self.encoder(x if first else x.transpose(0, 1), src_key_padding_mask=gone)
        y = (y if first else y.transpose(0, 1)).masked_fill(gone[..., None], 0)
        return self.head(y.sum(1))


PADDED = X.masked_fill((torch.arange(6) >= torch.tensor([[6], [6], [3], [4], [6]]))[..., None], 0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layers", [(1, 2), (2, 1), (2, 2)])
def test_encoders_that_drop_the_padding_work_with_heads_removed(layers):
    """Their shortcut in evaluation packs samples without padding, which attention that is written out does not take."""
    model = Encoder().eval()
    assert model.encoder.use_nested_tensor
    names = [f"encoder.layers.{number}.self_attn.q_proj" for number in (0, 1)]
    pruned = secateurs.prune(
        model, PADDED, LABELS, "random", keep=0.5, allocation=Explicit(dict(zip(names, layers, strict=True)))
    )
    kinds = [type(layer.self_attn) for layer in pruned.model.encoder.layers]
    assert kinds == [nn.MultiheadAttention if each == 2 else SeparateAttention for each in layers]
    assert pruned.model.encoder.use_nested_tensor is (layers == (2, 2))
    with torch.no_grad():
        fast = pruned.model.eval()(PADDED)
        slow = pruned.model.train()(PADDED)
    torch.testing.assert_close(fast, slow)
    if layers == (2, 2):
        assert vars(pruned.model.encoder).keys() == vars(model.encoder).keys()


def test_sequences_that_come_first_lose_heads_and_hidden_neurons():
    model = Encoder(batch_first=False).eval()
    write_out(model, PADDED)
    graph = NetworkGraph(model, PADDED)
    sizes = {group.name: group.size for group in graph.groups}
    inside = {f"encoder.layers.{number}.{name}" for number in (0, 1) for name in ("self_attn.q_proj", "linear1")}
    assert sizes == {name: 2 if "attn" in name else 16 for name in inside}
