"""nn.LSTM, nn.GRU and nn.RNN: written out they compute the same, and lose hidden units as any layer does."""

import copy

import pytest
import torch
from networks import noise, whole_numbers
from torch import nn

import secateurs
from methods.allocation import Explicit
from methods.pruning.recurrent import Stack, WrittenOut
from methods.pruning.writing_out import put_together, write_out

pytestmark = pytest.mark.hardware("an emulated device has no fused recurrent cells")

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN, "relu": nn.RNN}


def layer(kind, **settings):
    torch.manual_seed(0)
    settings |= {"nonlinearity": kind} if KINDS[kind] is nn.RNN else {}
    return KINDS[kind](5, 7, **settings)


class Tagger(nn.Module):
    """A recurrent layer and an answer for each step, or for the whole from the last state that it returns."""

    def __init__(self, recurrent, last=False, packed=False):
        super().__init__()
        self.recurrent, self.last, self.packed = recurrent, last, packed
        torch.manual_seed(1)
        self.head = nn.Linear(recurrent.hidden_size * (1 + recurrent.bidirectional), 3)

    def forward(self, x):
        if self.packed:
            lengths = torch.full((len(x),), x.shape[1])
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            states, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(x)[0], batch_first=True)
            return self.head(states[:, -1])
        states, end = self.recurrent(x)
        if self.last:
            return self.head((end[0] if isinstance(end, tuple) else end)[-1])
        return self.head(states).mean(1)


def samples(n=24):
    return noise(n, 6, 5, seed=2), whole_numbers(3, n, seed=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}])
@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_written_out_it_computes_the_same(kind, settings, batch_first):
    own = layer(kind, batch_first=batch_first, **settings).eval()
    for module in (WrittenOut(own), Stack(WrittenOut(own))):
        layers = own.num_layers * (1 + own.bidirectional)
        for shape, state in (((4, 6, 5), (layers, 4 if batch_first else 6, 7)), ((6, 5), (layers, 7))):
            x, start = noise(*shape, seed=4), noise(*state, seed=5)
            for hx in (None, (start, start + 1) if kind == "lstm" else start):
                expected, end = own(x, hx)
                found, own_end = module(x, hx)
                torch.testing.assert_close(found, expected)
                torch.testing.assert_close(own_end, end)


@pytest.mark.parametrize("kind", KINDS)
def test_put_together_it_is_the_same_layer_with_the_same_parameters(kind):
    model = Tagger(layer(kind, batch_first=True, num_layers=2, bidirectional=True, dropout=0.2))
    before = dict(model.named_parameters())
    x, _ = samples()
    drawn = torch.random.get_rng_state()
    assert write_out(model.eval(), x)
    assert isinstance(model.recurrent, WrittenOut)
    put_together(model)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert type(model.recurrent) is KINDS[kind]
    assert repr(model.recurrent) == repr(layer(kind, batch_first=True, num_layers=2, bidirectional=True, dropout=0.2))
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last", [True, False])
def test_what_is_left_is_the_layer_without_units(kind, last):
    """Against the closed form: what a unit says to the others and to the head is zero."""
    model = Tagger(layer(kind, batch_first=True), last)
    x, y = samples()
    pruned = secateurs.prune(model, x, y, "random", keep=0.5)
    assert type(pruned.model.recurrent) is KINDS[kind]
    assert pruned.model.recurrent.hidden_size == 4  # of 7
    [row] = pruned.layers
    assert (row["units"], row["kept"], pruned.left_alone) == (7, 4, {})
    weight = model.head.weight.detach()
    stays = [(weight == column[:, None]).all(0).nonzero().item() for column in pruned.model.head.weight.T]
    closed = copy.deepcopy(model)
    gone = [unit for unit in range(7) if unit not in stays]
    with torch.no_grad():
        closed.recurrent.weight_hh_l0[:, gone] = 0
        closed.head.weight[:, gone] = 0
        torch.testing.assert_close(pruned.model(x), closed(x))
    own = 7 * {"lstm": 4, "gru": 3}.get(kind, 1), 4 * {"lstm": 4, "gru": 3}.get(kind, 1)
    assert tuple(pruned.model.recurrent.weight_ih_l0.shape) == (own[1], 5)
    claimed = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in pruned.model.parameters())
    assert pruned.achieved["compression"] == pytest.approx(claimed)


def test_layers_that_keep_different_numbers_become_one_of_each(tmp_path):
    model = Tagger(layer("gru", batch_first=True, num_layers=2, bidirectional=True))
    x, y = samples()
    units = {"recurrent.input_l0": 6, "recurrent.input_l0_reverse": 4, "recurrent.input_l1": 2}
    explicit = secateurs.prune(model, x, y, "magnitude", keep=0.5, allocation=Explicit(units))
    assert isinstance(explicit.model.recurrent, Stack)
    found = {name: each.hidden_size for name, each in explicit.model.recurrent.named_children()}
    assert found == {"l0": 6, "l0_reverse": 4, "l1": 2, "l1_reverse": 7}
    assert explicit.model.recurrent.l1.input_size == 10
    explicit.save(tmp_path)
    loaded = secateurs.load(tmp_path)
    torch.testing.assert_close(loaded.model(x), explicit.model.eval()(x))


def test_a_loaded_layer_trains(tmp_path):
    """Recurrent layers keep their parameters in a list as well, which must hold the same ones."""
    model = Tagger(layer("lstm", batch_first=True))
    x, y = samples()
    secateurs.prune(model, x, y, "random", keep=0.5).save(tmp_path)
    loaded = secateurs.load(tmp_path).model
    before = loaded(x).detach()
    with torch.no_grad():
        loaded.recurrent.weight_ih_l0.add_(1)
    assert not torch.allclose(loaded(x), before)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_masks_have_the_names_of_the_layers_own_parameters(kind):
    model = Tagger(layer(kind, batch_first=True, bidirectional=True))
    x, y = samples()
    pruned = secateurs.prune(model, x, y, "magnitude_edge", keep=0.4)
    parameters = dict(pruned.model.named_parameters())
    assert {f"recurrent.weight_{part}_l0{end}" for part in ("ih", "hh") for end in ("", "_reverse")} < set(pruned.masks)
    for name, mask in pruned.masks.items():
        assert bool((parameters[name][~mask] == 0).all()) and mask.shape == parameters[name].shape
    assert type(pruned.model.recurrent) is type(model.recurrent)


def test_packed_sequences_are_left_alone():
    model = Tagger(layer("lstm", batch_first=True), packed=True)
    x, y = samples()
    assert not write_out(model.eval(), x)
    assert type(model.recurrent) is nn.LSTM
    pruned = secateurs.prune(model, x, y, "magnitude_edge", keep=0.5)
    assert list(pruned.masks) == ["head.weight"]


def test_survivors_go_back_to_earlier_weights():
    model, initial = (Tagger(layer("lstm", batch_first=True)) for _ in range(2))
    with torch.no_grad():
        for parameter in initial.parameters():
            parameter.mul_(2)
    x, y = samples()
    pruned = secateurs.prune(model, x, y, "random", keep=0.5, schedule="lottery", initial=initial)
    whole = initial.recurrent.weight_ih_l0
    assert all(bool((whole == row).all(1).any()) for row in pruned.model.recurrent.weight_ih_l0)
