"""Iterative schedules as cells: what the record says of each state, zeros that stay, and resuming after a kill."""

import json
from itertools import pairwise

import pytest
import torch

from benchmarks.cells import cell
from benchmarks.models import build
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.training import loop
from methods.pruner import Pruner


def config(folder, *words):
    small = ["dataset=digits", "dataset.limit=400", "model.widths=[20,16]", "trainer.train.epochs=2", "measure=none"]
    small += ["trainer.train.batch_size=16"]  # enough steps to be better than guessing
    small += [
        "trainer.finetune.epochs=2",
        "track=none",
        f"paths.results={folder}/results",
        f"paths.cache={folder}/cache",
    ]
    return Composer(CONF).cell([*small, *words])


LOTTERY = ("method=lottery_ticket", "schedule.steps=3", "budget.keep=0.4")


@pytest.fixture
def masks(monkeypatch):
    """The masks handed to every training, and whether the pruned weights were zero after it."""
    seen = []
    original = cell.fit

    def spy(model, *arguments, **options):
        result = original(model, *arguments, **options)
        chosen = options.get("masks") or {}
        named = dict(model.named_parameters())
        zero = all(not bool(named[name][~mask].any()) for name, mask in chosen.items())
        seen.append(({name: mask.clone() for name, mask in chosen.items()}, zero))
        return result

    monkeypatch.setattr(cell, "fit", spy)
    return seen


@pytest.mark.parametrize("rewind", ["init", "none", "1"])
def test_every_state_is_in_the_record(tmp_path, masks, rewind):
    record = cell.run(config(tmp_path, *LOTTERY, f"schedule.rewind={rewind}"))
    assert record.status == "done", record.reason
    rows = record.curve
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["keep"] for row in rows] == pytest.approx([1, 0.4 ** (1 / 3), 0.4 ** (2 / 3), 0.4], abs=1e-3)
    for row in rows:
        assert 0 <= row["accuracy"] <= 1 and 0 < row["pq_index"] < 1 and 0 < row["gini"] < 1 and row["loss"] > 0
    for row in rows[1:]:
        assert 0 <= row["pruned_accuracy"] <= 1
        assert [layer["name"] for layer in row["layers"]] == ["fc1", "fc2", "fc3"]
        for layer in row["layers"]:
            assert layer["lq_count_min"] <= layer["lq_count_mean"] <= layer["lq_count_max"]
            assert layer["output_error"] <= layer["output_bound"] and layer["tail"] <= layer["tail_bound"]
    kept = [sum(layer["kept"] for layer in row["layers"]) for row in rows[1:]]
    assert kept == sorted(kept, reverse=True)
    assert rows[-1]["layers"] == [layer.model_dump() for layer in record.layers]
    steps = [given for given, _ in masks if given]
    assert len(steps) == 3
    assert all(zero for _, zero in masks)  # through momentum and weight decay
    for wider, narrower in pairwise(steps):
        for name, mask in narrower.items():
            assert not bool((mask & ~wider[name]).any())


def test_one_step_has_no_curve(tmp_path):
    assert cell.run(config(tmp_path, "method=magnitude_edge")).curve is None


def test_theories_are_recorded_on_demand(tmp_path):
    first, second = config(tmp_path, "method=spectral"), config(tmp_path, "method=spectral", "measure.theory=true")
    plain, asked = cell.run(first), cell.run(second)
    assert plain.key != asked.key
    names = {row.theory for row in asked.predictions}
    assert {"OBD", "OBS group", "Kron-OBD", "spectral input information loss"} <= names
    assert len(asked.predictions) > len(plain.predictions or [])
    totals = [row for row in asked.predictions if row.layer is None and row.unit == "loss"]
    assert totals and all(row.measured == totals[0].measured for row in totals)


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(("step", "epoch"), [(0, 1), (1, 2), (2, 1)])
@pytest.mark.slow
def test_a_killed_cell_continues_at_its_step_and_ends_bit_identical(tmp_path, monkeypatch, step, epoch):
    words = (*LOTTERY, "save=true")
    whole = cell.run(config(tmp_path / "whole", *words))
    cell_config = config(tmp_path / "cut", *words)
    trained = []
    save = loop.store.save
    dense_epochs, per_step = 2, 2
    last = dense_epochs + step * per_step + epoch

    def saving(folder, name, *parts):
        """A training saves its state at the end of every epoch."""
        save(folder, name, *parts)
        if name == loop.STATE:
            trained.append(folder)
            if len(trained) == last:
                raise _Killed

    monkeypatch.setattr(loop.store, "save", saving)
    with pytest.raises(_Killed):
        cell.run(cell_config)
    assert len(trained) == last
    resumed = cell.run(cell_config)
    assert len(trained) == dense_epochs + 3 * per_step  # nothing was trained twice
    assert comparable(resumed) == comparable(whole)
    [one], [two] = (
        sorted((tmp_path / name / "results" / "networks").rglob("*.safetensors")) for name in ("whole", "cut")
    )
    assert one.read_bytes() == two.read_bytes()


def comparable(record):
    """All that does not depend on the clock."""
    content = json.loads(record.text())
    for name in ("cost", "created", "fingerprint", "checksum", "config"):
        content.pop(name, None)
    for rows in content["history"].values():
        for row in rows:
            row.pop("seconds")
    return content


def test_pruned_weights_are_zero_in_the_saved_network(tmp_path, monkeypatch):
    results = []
    original = Pruner.prune

    def keep(self, *arguments, **options):
        results.append(original(self, *arguments, **options))
        return results[-1]

    monkeypatch.setattr(Pruner, "prune", keep)
    record = cell.run(config(tmp_path, *LOTTERY))
    [pruned] = results
    zeros = sum(int((~mask).sum()) for mask in pruned.masks.values())
    named = dict(pruned.model.named_parameters())
    assert all(not bool(named[name][~mask].any()) for name, mask in pruned.masks.items())
    assert record.metrics.tuned.nonzero <= record.metrics.tuned.parameters - zeros
    assert zeros == pytest.approx(0.6 * sum(mask.numel() for mask in pruned.masks.values()), abs=2)
    assert torch.isfinite(named["fc1.weight"]).all()


@pytest.mark.parametrize("method", ["snip", "synflow"])
@pytest.mark.slow
def test_pruning_before_the_training_prunes_the_initial_network_and_then_trains_in_full(tmp_path, monkeypatch, method):
    starts = []
    original = cell.fit

    def spy(model, data, settings, *arguments, **options):
        starts.append(({name: value.clone() for name, value in model.state_dict().items()}, settings, options["masks"]))
        return original(model, data, settings, *arguments, **options)

    monkeypatch.setattr(cell, "fit", spy)
    chosen = config(tmp_path, f"method={method}", "budget.keep=0.4", "trainer.finetune.epochs=7")
    record = cell.run(chosen)
    [(state, settings, masks)] = starts
    fresh = build(chosen["model"], (1, 8, 8), 10, chosen["seed"]).state_dict()
    for name, value in fresh.items():
        assert torch.equal(state[name], value * masks[name] if name in masks else value)
    assert settings.epochs == len(record.history["finetune"]) == 2  # the full recipe, not that of fine-tuning
    assert record.budget.achieved.keep == pytest.approx(0.4, rel=0.01)
