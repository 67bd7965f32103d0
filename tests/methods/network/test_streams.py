"""Residual streams behind norms: embeddings, parameters outside of layers and tied heads go with their channels."""

import copy
from functools import partial

import pytest
import torch
from networks import noise, uniform, whole_numbers
from torch import nn
from torch.nn import functional

import secateurs
from methods.budgets.budget import NodeCost
from methods.layers.views import without_edges
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.network.kinds.registry import kind_of
from methods.network.surgery import remove_in_training
from methods.seeds import stream

WIDE, WORDS, TOKENS = 8, 11, 6


class Block(nn.Module):
    """Attention over two heads of fixed number and a perceptron, each behind a norm and before a scale."""

    def __init__(self, norm):
        super().__init__()
        self.norms = nn.ModuleList([norm(WIDE), norm(WIDE)])
        self.query, self.key, self.value = (nn.Linear(WIDE, 6) for _ in range(3))
        self.project, self.up, self.down = nn.Linear(6, WIDE), nn.Linear(WIDE, 12), nn.Linear(12, WIDE)
        self.scale = nn.Parameter(0.5 + uniform(WIDE))

    def forward(self, x):
        y = self.norms[0](x)
        q, k, v = (f(y).unflatten(2, (-1, 3)).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = x + self.project(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.scale * self.down(self.up(self.norms[1](x)).relu())


class Writer(nn.Module):
    """A causal model's parts: words and positions looked up, the head tied to the words or not."""

    def __init__(self, norm=nn.LayerNorm, tied=True, looked_up=True):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDE)
        self.positions = nn.Embedding(TOKENS, WIDE) if looked_up else None
        self.table = None if looked_up else nn.Parameter(noise(1, TOKENS, WIDE))
        self.register_buffer("waves", noise(TOKENS, WIDE, seed=2))
        self.blocks, self.norm = nn.Sequential(Block(norm), Block(norm)), norm(WIDE)
        self.head = nn.Linear(WIDE, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids):
        places = self.table if self.positions is None else self.positions(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(self.words(ids) + places + self.waves))).mean(1)


class Viewer(nn.Module):
    """An image model with a token for the class."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, WIDE, 2, stride=2), nn.Parameter(noise(1, 1, WIDE))
        self.places = nn.Parameter(noise(1, 5, WIDE))
        self.block, self.norm, self.head = Block(nn.RMSNorm), nn.LayerNorm(WIDE), nn.Linear(WIDE, 3)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.places
        return self.head(self.norm(self.block(tokens))[:, 0])


STREAMS = {
    "tied": (Writer, "positions", ["waves", "blocks.0.scale", "blocks.1.scale"]),
    "not tied": (partial(Writer, tied=False), "positions", ["waves", "blocks.0.scale", "blocks.1.scale"]),
    "rms norm, a table of positions": (
        partial(Writer, nn.RMSNorm, looked_up=False), "words", ["table", "waves", "blocks.0.scale", "blocks.1.scale"]
    ),
    "image": (Viewer, "patches", ["token", "places", "block.scale"]),
}  # fmt: skip


def made(name, n=12):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = STREAMS[name][0]().eval()
    for number, parameter in enumerate(model.parameters()):
        if parameter.dim() == 1:
            parameter.data = 0.5 + uniform(len(parameter), seed=number)
    return model, noise(n, 1, 4, 4) if name == "image" else whole_numbers(WORDS, n, TOKENS)


def half(graph):
    draw = stream(4, "half")
    return {g.name: torch.randperm(g.size, generator=draw)[: g.size // 2].sort().values for g in graph.groups}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_cut_everywhere_and_computes_what_the_masked_one_does(name):
    model, inputs = made(name)
    closed, (_, first, held) = copy.deepcopy(model), STREAMS[name]
    graph = NetworkGraph(model, inputs, residual=True)
    group = graph.find(first)
    assert group.size == WIDE and sorted(each.name for each in group.held) == sorted(held) and not graph.left_alone
    groups, kept = list(graph.groups), half(graph)
    claimed = NodeCost(model, inputs, groups)({name: len(nodes) for name, nodes in kept.items()})
    for each, nodes in kept.items():
        graph.remove(graph.find(each), nodes)
    with torch.no_grad(), gated(closed, groups, kept):
        for batch in (1, 5):
            assert torch.allclose(model(inputs[:batch]), closed(inputs[:batch]), atol=1e-5)
    assert claimed.compression == sum(parameter.numel() for parameter in model.parameters())
    assert claimed.speedup == count_macs(model, inputs)
    assert all(WIDE not in parameter.shape for parameter in model.parameters())
    if name == "tied":
        assert model.head.weight is model.words.weight
    model.train()
    model(inputs).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.shape == parameter.shape for parameter in model.parameters()
    )


def test_without_asking_the_stream_stays_and_says_how_to_ask():
    model, inputs = made("tied")
    graph = NetworkGraph(model, inputs)
    assert graph.left_alone == {"positions": "residual stream (prune it with prune_residual=true)"}
    assert {group.name for group in graph.groups} == {f"blocks.{n}.{path}" for n in (0, 1) for path in ("query", "up")}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("method", ["spectral", "magnitude"])
@pytest.mark.slow
def test_streams_are_pruned_through_the_door(name, method):
    model, inputs = made(name)
    labels = whole_numbers(3, len(inputs))
    pruned = secateurs.prune(model, inputs, labels, method=method, keep=0.5, prune_residual=True)
    assert pruned.achieved["keep"] == pytest.approx(0.5, rel=0.05) and not pruned.left_alone
    assert pruned.achieved["speedup"] == pytest.approx(count_macs(model, inputs) / count_macs(pruned.model, inputs))
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, pruned.model)]
    assert pruned.achieved["compression"] == pytest.approx(sizes[0] / sizes[1])


def test_a_head_tied_to_its_embedding_keeps_its_single_weights_and_says_so():
    model, inputs = made("tied")
    pruned = secateurs.prune(model, inputs, whole_numbers(3, 12), method="magnitude_edge", keep=0.5)
    assert torch.equal(pruned.model.head.weight, model.words.weight)
    assert all("words and head share a weight" in pruned.left_alone[path] for path in ("words", "head"))
    untied, inputs = made("not tied")
    pruned = secateurs.prune(untied, inputs, whole_numbers(3, 12), method="magnitude_edge", keep=0.5)
    assert "head.weight" in pruned.masks and torch.equal(pruned.model.words.weight, untied.words.weight)
    assert pruned.left_alone["words"] == "Embedding looks its weights up; these are not pruned one by one"
    assert without_edges(untied, pruned.masks).keys() >= {"positions"}


def test_a_removal_in_the_middle_of_a_training_keeps_the_tie_and_the_optimizers_state():
    model, inputs = made("tied")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(inputs).square().sum().backward()
    optimizer.step()
    momentum = optimizer.state[model.words.weight]["momentum_buffer"].clone()
    graph = NetworkGraph(model, inputs, residual=True)
    remove_in_training(graph, {"positions": torch.tensor([0, 3, 5])}, optimizer)
    assert model.head.weight is model.words.weight and model.words.weight.shape == (WORDS, 3)
    assert torch.equal(optimizer.state[model.words.weight]["momentum_buffer"], momentum[:, [0, 3, 5]])
    assert model(inputs).shape == (12, WORDS)


def test_an_embedding_is_its_table_times_ones_where_it_looks_up():
    table = nn.Embedding(WORDS, WIDE)
    ids, kind = whole_numbers(WORDS, 3, 4), kind_of(table)
    written = table(ids)
    expected = kind.by_position(table, written)
    assert torch.equal(kind.matrix(table).flatten(1) @ kind.patches(table, ids), expected)
    assert torch.equal(kind.compute(table, ids, kind.matrix(table)), written)
    assert torch.equal(kind.rows(table, ids), kind.patches(table, ids).transpose(0, 1).flatten(1))
    slopes = noise(*written.shape)
    rows = []
    for sample, slope in zip(ids, slopes, strict=True):
        (gradient,) = torch.autograd.grad((table(sample[None]) * slope).sum(), [table.weight])
        rows.append(gradient.T.flatten())
    assert torch.allclose(kind.gradients(table, ids, slopes), torch.stack(rows), atol=1e-6)
    kind.cut_outputs(table, torch.tensor([1, 2]))
    assert torch.equal(table(ids), written[..., [0, *range(3, WIDE)]]) and table.embedding_dim == WIDE - 2
    with pytest.raises(TypeError, match="no channels"):
        kind.cut_inputs(table, torch.tensor([0]))
