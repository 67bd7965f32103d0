"""The network that a training starts from as a candidate, recipes that go on after some epochs, and chance."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.cells.chance import Chance
from benchmarks.data.splits import load
from benchmarks.training import loop
from benchmarks.training.scoring import Score, evaluate
from benchmarks.training.trainer import TrainerSettings, fit
from methods.errors import BadInput
from methods.schedule import Iterative, Schedule


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from benchmarks.settings.home import CONF
    from benchmarks.sweeps.composition import Composer

    config = Composer(CONF).cell(["dataset=digits", "dataset.limit=400"])
    return load(config["dataset"], 0, tmp_path_factory.mktemp("cache"))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def some(**changes):
    return TrainerSettings(**{"epochs": 3, "batch_size": 32, "learning_rate": 0.1, **changes})


def test_fine_tuning_cannot_make_a_network_worse(data):
    model = network()
    fit(model, data, some(), 0)
    before = copy.deepcopy(model)
    ruin = some(learning_rate=50.0, weight_decay=0.0, clip_norm=1.0, include_start=True)
    history = fit(model, data, ruin, 0)
    assert history.best_epoch == 0 and "fine-tuning ended with a worse validation accuracy" in history.setback
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    unguarded = copy.deepcopy(before)
    without = fit(unguarded, data, ruin.model_copy(update={"include_start": None}), 0)
    assert without.best_epoch > 0 and without.start is None and without.setback is None
    assert evaluate(unguarded, data.validation).accuracy < evaluate(model, data.validation).accuracy


def test_an_epoch_that_is_better_is_taken_and_needs_no_note(data):
    model = network()
    history = fit(model, data, some(include_start=True), 0)
    assert history.best_epoch > 0 and history.setback is None


def test_a_recipe_goes_on_where_it_was(data, monkeypatch):
    rates, asked = [], loop.learning_rate

    def spy(settings, step, steps_per_epoch):
        rates.append(asked(settings, step, steps_per_epoch))
        return rates[-1]

    monkeypatch.setattr(loop, "learning_rate", spy)
    whole = fit(network(), data, some(schedule="cosine"), 0)
    full, rates[:] = list(rates), []
    rest = fit(network(), data, some(schedule="cosine"), 0, first_epoch=1)
    assert rates == full[len(full) // 3 :]
    assert [row["epoch"] for row in rest.epochs] == [row["epoch"] for row in whole.epochs[1:]]
    assert fit(network(), data, some(), 0, first_epoch=3).epochs == []


def test_rewound_networks_get_the_full_recipe():
    assert Schedule().recipe == Iterative().recipe == "finetune"
    assert Iterative(rewind="init").recipe == Iterative(rewind="new").recipe == "train"
    assert (Iterative(rewind=2).recipe, Iterative(rewind=2).first_epoch) == ("train", 2)
    assert Iterative(rewind="init", recipe="finetune").recipe == "finetune"
    with pytest.raises(BadInput, match="schedule.recipe=half"):
        Iterative(recipe="half")
    with pytest.raises(BadInput, match="schedule.between=false"):
        Iterative(rewind="init", between=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=10))
def test_a_constant_answer_is_chance_and_a_perfect_one_is_not(counts):
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    chance = Chance.of(targets)
    assert chance.accuracy == max(counts) / sum(counts)
    assert chance.explains(Score(chance.accuracy, None, 1.0)) is not None
    if chance.limit < 1:
        assert chance.explains(Score(1.0, None, 0.0)) is None


def test_chance_on_ten_even_classes_and_in_regression():
    chance = Chance.of(torch.arange(10).repeat(100))
    assert 0.11 < chance.limit < 0.13  # binomial: 10 % and 2.33 standard deviations of 0.95 points
    assert chance.explains(Score(0.114, None, 2.3)) and not chance.explains(Score(0.14, None, 2.2))
    numbers = torch.tensor([0.0, 2.0])
    assert Chance.of(numbers).explains(Score(None, None, 1.0)) and not Chance.of(numbers).explains(
        Score(None, None, 0.9)
    )


@pytest.mark.parametrize(("samples", "batches"), [(64, 2), (65, 2), (66, 3), (10_000, None)])
def test_an_epoch_can_be_shorter_than_the_training_split(data, samples, batches):
    seen, whole = [], len(data.train)
    taken = batches if batches is not None else whole // 32 + (whole % 32 > 1)
    model = network()
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()) if module.training else None)
    fit(model, data, some(epochs=2, samples=samples), 0)
    assert len(seen) == 2 * taken
    first, second = seen[:taken], seen[taken:]
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "both epochs have the same samples"


def test_the_rate_falls_over_short_epochs_as_over_whole_ones(data, monkeypatch):
    rates, asked = [], loop.learning_rate

    def spy(*given):
        rates.append(asked(*given))
        return rates[-1]

    monkeypatch.setattr(loop, "learning_rate", spy)
    fit(network(), data, some(epochs=2, samples=96, schedule="cosine"), 0)
    assert len(rates) == 6 and rates == sorted(rates, reverse=True) and rates[-1] < 0.1 * rates[0]


def test_a_checkpoint_of_whole_epochs_is_not_gone_on_with_in_short_ones(data, tmp_path, caplog):
    fit(network(), data, some(epochs=1), 0, checkpoint=tmp_path)
    history = fit(network(), data, some(epochs=1, samples=64), 0, checkpoint=tmp_path)
    assert "belongs to another training" in caplog.text and len(history.epochs) == 1
