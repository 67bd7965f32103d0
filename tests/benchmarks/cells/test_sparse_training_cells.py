"""Methods with a training of their own as cells: what is trained how long, the record, going on after a kill."""

import json

import pytest
import torch

from benchmarks.cells import cell, during_training
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.training import loop
from methods.errors import BadInput

QUICK = {"rigl": ["schedule.every=5"], "movement": ["schedule.every=5"], "greg": ["schedule.every=2"]}


def config(folder, method, *words, network=("model.widths=[20,16]",)):
    small = [f"method={method}", *QUICK.get(method, []), "dataset=digits", "dataset.limit=400", *network]
    small += ["trainer.train.epochs=3", "trainer.finetune.epochs=2", "trainer.train.batch_size=16", "measure=none"]
    small += ["budget.keep=0.4", "track=none", f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    return Composer(CONF).cell([*small, *words])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epochs"), [("set", 3), ("rigl", 3), ("movement", 2), ("greg", 2)])
def test_the_training_has_its_recipe_and_what_comes_out_is_fine_tuned(tmp_path, monkeypatch, method, epochs):
    trained, tuned = [], []
    original = cell.fit

    def own(model, data, settings, *arguments, **options):
        trained.append((settings.epochs, [type(hook).__name__ for hook in options["hooks"]]))
        return original(model, data, settings, *arguments, **options)

    def after(model, data, settings, *arguments, **options):
        found = original(model, data, settings, *arguments, **options)
        named = dict(model.named_parameters())
        zero = all(not named[name][~mask].any() for name, mask in options["masks"].items())
        tuned.append((settings.epochs, len(options["masks"]), zero))
        return found

    monkeypatch.setattr(during_training, "fit", own)
    monkeypatch.setattr(cell, "fit", after)
    record = cell.run(config(tmp_path, method))
    assert record.status == "done", record.reason
    assert [length for length, _ in trained] == [epochs] and len(trained[0][1]) == 1
    assert tuned == [(2, 0 if method == "greg" else 3, True)]
    assert record.budget.achieved.keep == pytest.approx(0.4, rel=0.01 if method != "greg" else 0.05)
    assert [(layer.kept, layer.units) for layer in record.layers] and record.cost.prune_seconds > 0
    if method in ("set", "rigl", "movement"):
        assert record.curve and all(row["grown"] >= 0 for row in record.curve)


@pytest.mark.slow
def test_slimming_trains_with_small_scales(tmp_path):
    network = ("model=resnet20", "model.width=0.5")
    record = cell.run(config(tmp_path, "slimming", "schedule.strength=0.01", network=network))
    assert record.status == "done", record.reason
    assert record.budget.achieved.keep == pytest.approx(0.4, rel=0.05)


def test_slimming_skips_a_network_without_batch_norms(tmp_path):
    record = cell.run(config(tmp_path, "slimming", "trainer.train.epochs=1"))
    assert record.status == "skipped" and "no batch norm" in record.reason


def test_no_epochs_are_refused(tmp_path):
    with pytest.raises(BadInput, match="type trainer.finetune.epochs=10"):
        cell.run(config(tmp_path, "movement", "trainer.finetune.epochs=0", "trainer.train.epochs=1"))


class _Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigl", "movement", "greg"])
def test_a_killed_cell_goes_on_where_its_training_was_and_ends_bit_identical(tmp_path, monkeypatch, method):
    whole = cell.run(config(tmp_path / "whole", method, "save=true"))
    chosen = config(tmp_path / "cut", method, "save=true")
    saved, save = [], loop.store.save

    def saving(folder, name, *parts):
        save(folder, name, *parts)
        if name == loop.STATE:
            saved.append(folder)
            if len(saved) == 3 + 1:  # the dense network's epochs, and one of the method's own
                raise _Killed

    monkeypatch.setattr(loop.store, "save", saving)
    with pytest.raises(_Killed):
        cell.run(chosen)
    resumed = cell.run(chosen)
    assert len(saved) == 3 + (3 if method == "rigl" else 2) + 2  # nothing was trained twice
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


def test_the_networks_of_a_training_from_scratch_are_fresh(tmp_path, monkeypatch):
    """RigL begins with the initial weights of the seed, masked, not with those of the dense network."""
    from benchmarks.models import build

    starts = []
    original = during_training.fit

    def spy(model, *arguments, **options):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(model, *arguments, **options)

    monkeypatch.setattr(during_training, "fit", spy)
    chosen = config(tmp_path, "rigl", "trainer.train.epochs=1")
    cell.run(chosen)
    fresh = build(chosen["model"], (1, 8, 8), 10, chosen["seed"]).state_dict()
    for name, value in fresh.items():
        assert torch.equal(starts[0][name][starts[0][name] != 0], value[starts[0][name] != 0])
    assert any(bool((value == 0).any()) for name, value in starts[0].items() if name.endswith("weight"))
