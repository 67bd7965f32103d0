"""Tuning with equal budgets: as many trials for every method, chosen on validation, the test split read once."""

import pytest
from marks import slow_but_for

from benchmarks.cells import cell
from benchmarks.cells.parts import build_pruner
from benchmarks.cells.trials import Trial, search
from benchmarks.records.keys import cell_key
from benchmarks.settings.home import CONF
from benchmarks.settings.tuning import grid, with_options, with_trials
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer
from benchmarks.training.scoring import Score
from methods.errors import BadInput, Collapsed
from methods.pruner import Pruner

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
SMALL = ("dataset=digits", "dataset.limit=300", "model.widths=[16,12]", "measure=none", "track=none")
EPOCHS = ("trainer.train.epochs=3", "trainer.finetune.epochs=2", "calibration.samples=100", "budget.keep=0.4")


def configured(folder, *words):
    folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    return Composer(CONF).cell([*SMALL, *EPOCHS, *folders, *words])


@pytest.mark.parametrize("method", slow_but_for(METHODS))
def test_every_method_declares_a_grid_whose_options_it_takes(method):
    assert (CONF / "tuning" / f"{method}.yaml").is_file()
    rates, options = grid(method, CONF)
    config = Composer(CONF).cell([f"method={method}"])
    assert len(set(rates)) == len(rates) >= 4 and rates[0] == 1.0
    for option in options:
        changed = with_options(config, option)
        build_pruner(changed)
        assert changed != config, "the preset's own value is tried anyway"
    assert len({str(option) for option in options}) == len(options)


@pytest.mark.parametrize("method", slow_but_for(METHODS))
def test_a_number_is_as_many_trials_for_every_method(method):
    composer = Composer(CONF)
    few = [["compensation=none"], ["allocation=uniform"]] if method in ("thinet", "obd", "random") else []
    for config in (composer.cell([f"method={method}", *more]) for more in [[], *few]):
        for number in (2, 4, 5, 8):
            tune = with_trials({**config, "tune": number})["tune"]
            assert len(tune["rates"]) + len(tune["options"]) == number
            assert tune["rates"][:2] == [1.0, 0.3] and (number > 4 or not tune["options"])


def test_without_it_the_key_is_what_it_was_and_with_it_another():
    usual, tuned, more = (Composer(CONF).cell(words) for words in ([], ["tune=4"], ["tune=5"]))
    assert usual["tune"] is None
    bare = {name: part for name, part in usual.items() if name != "tune"}
    assert cell_key(usual) == cell_key(bare)
    assert len({cell_key(usual), cell_key(tuned), cell_key(more)}) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune=99"], "the grid of spectral has .* trials, and every method gets as many"),
        (["tune=1"], "tune=1 is below 2"),
        (["tune=often"], "tune=often is"),
        (["tune=2", "trainer.finetune.epochs=0"], "which has 0 epochs"),
        (["tune={rates: [1.0], options: [{selection.nonsense: 1}]}"], "nonsense"),
        (["tune={rates: [0.0], options: []}"], r"tune.rates.0=0.0 is not above 0"),
        (["tune={rates: [1.0], options: [{trainer.train.epochs: 1}]}"], "tune"),
    ],
)
def test_bad_trials_are_refused_before_anything_runs(tmp_path, words, message):
    from benchmarks.cells.parts import check

    with pytest.raises(BadInput, match=message):
        check(configured(tmp_path, "method=spectral", *words))


def score(accuracy, loss=1.0):
    return Score(accuracy, None, loss)


def test_rates_come_first_and_options_at_the_best_of_them():
    seen = []
    found = {1.0: 0.8, 0.3: 0.9, 0.1: 0.7}

    def attempt(trial):
        seen.append((trial.number, trial.rate, trial.options))
        return trial

    best, account = search(
        {"rates": [1.0, 0.3, 0.1], "options": [{"a.b": 1}, {"a.b": 2}]},
        attempt,
        lambda trial: score(
            found[trial.rate] + (0.05 if trial.options == {"a.b": 2} else -0.05 if trial.options else 0)
        ),
    )
    assert seen == [(0, 1.0, None), (1, 0.3, None), (2, 0.1, None), (3, 0.3, {"a.b": 1}), (4, 0.3, {"a.b": 2})]
    assert best == Trial(4, 0.3, {"a.b": 2})
    assert (account["trials"], account["chosen"], account["by"]) == (5, 4, "validation accuracy")
    assert [row["accuracy"] for row in account["attempts"]] == pytest.approx([0.8, 0.9, 0.7, 0.85, 0.95])


def test_of_equal_accuracies_the_lower_loss_wins_and_of_equal_trials_the_first():
    losses = {1.0: 0.5, 0.3: 0.4, 0.1: 0.4}
    best, _ = search({"rates": [1.0, 0.3, 0.1], "options": []}, lambda t: t, lambda t: score(0.9, losses[t.rate]))
    assert best.rate == 0.3
    best, account = search(
        {"rates": [1.0, 0.3, 0.1], "options": []}, lambda t: t, lambda t: score(None, losses[t.rate])
    )
    assert best.rate == 0.3 and account["by"] == "validation loss"
    broken = {1.0: float("nan"), 0.3: float("inf"), 0.1: 3.0}
    best, _ = search({"rates": [1.0, 0.3, 0.1], "options": []}, lambda t: t, lambda t: score(0.9, broken[t.rate]))
    assert best.rate == 0.1


def test_a_trial_that_fails_is_told_and_where_all_fail_the_cell_does():
    def attempt(trial):
        if trial.rate == 1.0:
            raise Collapsed("no numbers")
        return trial

    best, account = search({"rates": [1.0, 0.3], "options": []}, attempt, lambda trial: score(0.5))
    assert best.rate == 0.3 and [row["reason"] for row in account["attempts"]] == ["no numbers", None]
    with pytest.raises(Collapsed, match="no numbers"):
        search({"rates": [1.0], "options": [{"a.b": 1}]}, attempt, lambda trial: score(0.5))


@pytest.mark.slow
def test_methods_of_a_sweep_get_the_same_trials_and_the_best_on_validation_is_measured(tmp_path):
    accounts = {}
    for method in ("random", "spectral", "magnitude_edge"):
        record = cell.run(configured(tmp_path, f"method={method}", "tune=5"))
        assert record.status == "done"
        accounts[method] = record.tuning
        rows = record.tuning["attempts"]
        merits = [(row["accuracy"], -row["loss"]) for row in rows]
        assert record.tuning["chosen"] == merits.index(max(merits))
        assert len(record.history["finetune"]) == 2
        best = max(row["validation_accuracy"] for row in record.history["finetune"])
        assert rows[record.tuning["chosen"]]["accuracy"] >= round(best, 6) - 1e-6
    assert {account["trials"] for account in accounts.values()} == {5}
    assert {len(account["attempts"]) for account in accounts.values()} == {5}
    assert [row["rate"] for row in accounts["random"]["attempts"]] == [1.0, 0.3, 0.1, 3.0, 0.6]
    assert accounts["spectral"]["attempts"][4]["options"] == {"selection.theta": 0.2}


def test_the_first_trial_is_the_cell_that_is_not_tuned(tmp_path):
    plain = cell.run(configured(tmp_path, "method=magnitude"))
    tuned = cell.run(configured(tmp_path, "method=magnitude", "tune={rates: [1.0], options: []}"))
    assert tuned.metrics == plain.metrics and tuned.layers == plain.layers and plain.tuning is None


def test_the_test_split_is_read_once_at_the_end(tmp_path, monkeypatch):
    read = []
    original, load = cell.evaluate, cell.load
    held = {}

    def loading(*arguments):
        held["data"] = load(*arguments)
        return held["data"]

    def spy(model, split, *rest):
        read.append("test" if split is held["data"].test else "validation")
        return original(model, split, *rest)

    monkeypatch.setattr(cell, "load", loading)
    monkeypatch.setattr(cell, "evaluate", spy)
    cell.run(configured(tmp_path, "method=magnitude", "tune=4"))
    assert read.count("test") == 3, "the dense, the pruned and the tuned network, each once"
    assert read.index("test") >= 4 and set(read[read.index("test") :]) == {"test"}


def test_rates_share_one_pruning_where_no_training_is_in_it(tmp_path, monkeypatch):
    calls = []
    prune = Pruner.prune

    def spy(self, *rest, **named):
        calls.append(self)
        return prune(self, *rest, **named)

    monkeypatch.setattr(Pruner, "prune", spy)
    cell.run(configured(tmp_path, "method=magnitude", "tune=5"))
    assert len(calls) == 2  # norm 1 and norm 2
    calls.clear()
    iterative = ["schedule=iterative", "schedule.steps=2"]
    record = cell.run(configured(tmp_path, "method=magnitude", "tune=2", *iterative))
    assert len(calls) == 2 and len(record.curve) == 3


@pytest.mark.parametrize("method", ["lottery_ticket", "flat_minimum"])
@pytest.mark.slow
def test_rewinding_and_training_methods_are_tuned_too_from_one_dense_network(tmp_path, method):
    few = ["trainer.train.epochs=4"] + (["schedule.steps=2"] if method == "lottery_ticket" else [])
    plain = cell.run(configured(tmp_path, f"method={method}", *few))
    tuned = cell.run(configured(tmp_path, f"method={method}", "tune=2", *few))
    assert tuned.tuning["trials"] == 2 and tuned.metrics.dense == plain.metrics.dense
    losses = [row["loss"] for row in tuned.tuning["attempts"]]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_killed_cell_goes_on_in_the_trial_it_was_in(tmp_path, monkeypatch):
    words = ("method=spectral", "tune=4")
    whole = cell.run(configured(tmp_path / "whole", *words))
    original, trained = cell.fit, []

    class Killed(BaseException):
        pass

    def dying(model, data, settings, seed, **named):
        if len(trained) == 2:
            raise Killed
        trained.append(named["checkpoint"].parent.name)
        return original(model, data, settings, seed, **named)

    config = configured(tmp_path / "killed", *words)
    monkeypatch.setattr(cell, "fit", dying)
    with pytest.raises(Killed):
        cell.run(config)
    assert trained == ["trial0", "trial1"]
    epochs = []

    def counting(model, data, settings, seed, on_epoch=None, **named):
        def count(row):
            epochs.append(named["checkpoint"].parent.name)
            on_epoch(row)

        return original(model, data, settings, seed, on_epoch=count, **named)

    monkeypatch.setattr(cell, "fit", counting)
    again = cell.run(config)
    assert again.tuning == whole.tuning and again.metrics == whole.metrics
    assert epochs == ["trial2"] * 2 + ["trial3"] * 2, "what was trained is read from its checkpoint"
    assert not (Paths.of(config["paths"]).cache / "cells" / again.key).exists()
