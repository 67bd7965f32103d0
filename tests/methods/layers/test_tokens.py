"""Sequences of tokens: losses and gradients of labels on every token, and moments that count no padding."""

import copy

import networks
import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.curvature.kfac import kfac_factors, sample_labels
from methods.errors import Skipped
from methods.layers.gradients import (
    Samples,
    collect_gradients,
    draw_labels,
    mean_gradients,
    per_sample_gradients,
    sample_losses,
)
from methods.layers.statistics import UNLABELLED, Calibration, collect_moments, cross_moments
from methods.layers.views import edge_views
from methods.network.reading import node_rows, patch_rows
from methods.seeds import stream
from methods.unstructured.synflow import SynFlowSelection

VOCABULARY, LENGTH = 7, 5


class Tagger(nn.Module):
    """Ids (B, T) to logits (B, T, classes); with padding 0 the sequence is read as if it ended there."""

    def __init__(self, classes=VOCABULARY, pooled=False):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, classes)
        self.pooled = pooled

    def forward(self, ids):
        hidden = self.first(self.embedding(ids)).tanh()
        if self.pooled:
            present = (ids != 0).unsqueeze(2)
            hidden = (hidden * present).sum(1) / present.sum(1).clamp_min(1)
        return self.last(hidden)


def tagger(**how):
    model = Tagger(**how).eval()
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * networks.noise(*parameter.shape, seed=place))
    return model


def ids(count=6, lengths=None):
    """(count, LENGTH) ids from 1 on, filled up with 0 from each length on."""
    values = networks.whole_numbers(VOCABULARY - 1, count, LENGTH, seed=5) + 1
    for row, length in enumerate(lengths or ()):
        values[row, length:] = 0
    return values


def labels(count=6):
    values = networks.whole_numbers(VOCABULARY, count, LENGTH, seed=6)
    values[0, 2:] = UNLABELLED
    values[1] = UNLABELLED
    return values


def test_the_loss_of_a_sequence_is_the_mean_over_its_labelled_tokens():
    outputs, own = networks.noise(6, LENGTH, VOCABULARY), labels()
    found = sample_losses(outputs, own)
    for row in range(6):
        known = own[row] != UNLABELLED
        parts = [-outputs[row, t].log_softmax(0)[own[row, t]] for t in range(LENGTH) if known[t]]
        assert float(found[row]) == pytest.approx(float(torch.stack(parts).mean()) if parts else 0.0, abs=1e-6)


def test_gradients_of_sequences_are_those_of_their_losses():
    model, x, y = tagger(), ids(), labels()
    found = per_sample_gradients(model, ["first", "last"], x, y)
    for row in range(6):
        loss = sample_losses(model(x[row : row + 1]), y[row : row + 1]).sum()
        expected = torch.autograd.grad(loss, [model.first.weight, model.last.weight])
        for own, single in zip(found, expected, strict=True):
            assert torch.allclose(own[row], single.flatten(), atol=1e-6)
    mean = mean_gradients(model, ["first"], Calibration(x, y, batch_size=4))["first"]
    assert torch.allclose(mean.float(), found[0].mean(0).view_as(mean).float(), atol=1e-6)


def test_one_sequence_at_a_time_gives_the_same_as_the_generic_way():
    model, x, y = tagger(), ids(), labels()
    fast = collect_gradients(model, ["first"], Calibration(x, y), Samples()).matrix

    class Twice(nn.Module):  # a layer that is called twice takes the other way
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, read):
            self.inner.first(self.inner.embedding(read))
            return self.inner(read)

    slow = per_sample_gradients(Twice().eval(), ["inner.first"], x, y)[0]
    assert torch.allclose(fast, slow, atol=1e-6)


@pytest.mark.parametrize("draw", ["gradients", "kfac"])
def test_labels_are_drawn_for_every_token_that_has_one(draw):
    model, x, y = tagger(), ids(4000), labels(4000)
    random = stream(1, "labels")
    drawn = draw_labels(model, x, y, random, 512) if draw == "gradients" else sample_labels(model(x), y, random)
    assert drawn.shape == y.shape and drawn.dtype == y.dtype
    assert torch.equal(drawn == UNLABELLED, y == UNLABELLED)
    same = x[:, 3] == x[2, 3]  # the same token has the same predictions here
    shares = torch.bincount(drawn[same, 3][drawn[same, 3] >= 0], minlength=VOCABULARY) / int(same.sum())
    expected = model(x[2:3])[0, 3].softmax(0).detach()
    assert float((shares - expected).abs().max()) < 5 * (0.25 / int(same.sum())) ** 0.5


def test_kronecker_factors_sum_tokens():
    model, x = tagger(), ids()
    y = networks.whole_numbers(VOCABULARY, 6, LENGTH, seed=6)
    factors = kfac_factors(model, ["last"], x, y)["last"]
    hidden = model.first(model.embedding(x)).tanh().detach().double()
    ones = torch.cat([hidden, torch.ones(6, LENGTH, 1, dtype=torch.float64)], 2).flatten(0, 1)
    assert torch.allclose(factors.A, ones.T @ ones / 6, atol=1e-6)
    outputs = model(x).detach().double()
    slopes = (outputs.softmax(2) - functional.one_hot(y, VOCABULARY)) / LENGTH
    assert torch.allclose(factors.G, torch.einsum("nto,ntp->op", slopes, slopes) / (6 * LENGTH), atol=1e-6)


LENGTHS = (5, 2, 1, 4, 3, 5)


@pytest.mark.parametrize("view", ["nodes", "patches"])
@pytest.mark.parametrize("batch", [1, 4, 6])
def test_moments_count_tokens_and_no_padding(view, batch):
    model, x = tagger(pooled=True), ids(lengths=LENGTHS)
    rows = patch_rows(model.first) if view == "patches" else node_rows(torch.arange(6)[:, None].cpu(), False)
    calibration = Calibration(x, torch.zeros(6, dtype=torch.long), batch_size=batch, padding=0)
    moments = collect_moments(model, {"m": ("first", rows), "end": ("last", patch_rows(model.last))}, calibration)
    tokens = torch.cat([model.embedding(x[row, :length]) for row, length in enumerate(LENGTHS)]).detach().double()
    assert moments["m"].count == len(tokens) == calibration.tokens == sum(LENGTHS)
    assert torch.allclose(moments["m"].second, tokens.T @ tokens / len(tokens), atol=1e-10)
    assert torch.allclose(moments["m"].mean, tokens.mean(0), atol=1e-10)
    assert moments["end"].count == 6  # what was pooled is one sample a sequence
    cross, own = cross_moments(model, copy.deepcopy(model), "first", (rows, rows), calibration)
    assert torch.allclose(cross.second, moments["m"].second) and own.count == len(tokens)


def test_batches_are_as_long_as_their_longest_sequence():
    calibration = Calibration(ids(lengths=LENGTHS), labels(), batch_size=2, padding=0)
    shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in calibration.batches()]
    assert shapes == [((2, 5), (2, 5)), ((2, 4), (2, 4)), ((2, 5), (2, 5))]
    plain = Calibration(ids(), torch.zeros(6, dtype=torch.long), batch_size=4)
    assert [tuple(x.shape) for x, _ in plain.batches()] == [(4, 5), (2, 5)] and plain.tokens == 30
    assert Calibration(networks.noise(3, 5), torch.zeros(3, dtype=torch.long)).tokens is None


def test_synaptic_flow_of_tokens_is_refused_with_the_reason():
    model, x = tagger(), ids()
    layers = edge_views(model, ["first"], {}, Calibration(x, labels()), "seed")
    with pytest.raises(Skipped, match="reads ids of tokens"):
        SynFlowSelection().scores(layers[0])
