"""What a cell promises beside its wiring: its record is written, rewound weights are those named, leases are kept."""

import pytest
import torch
from sample_records import made

from benchmarks.cells import cell, tracker
from benchmarks.cells.parts import build
from benchmarks.cells.preparation import calibrate
from benchmarks.cells.pruning_memory import pruning_task
from benchmarks.cells.steps import States
from benchmarks.data.splits import load
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.lease import Lost
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer
from benchmarks.training.scoring import Score, evaluate
from methods.errors import BadInput
from methods.pruner import Pruner
from methods.seeds import derive_seed, stream

SMALL = ("dataset=digits", "dataset.limit=400", "model.widths=[20,16]", "measure=none", "track=none")


def configured(folder, *words):
    epochs = ["trainer.train.epochs=2", "trainer.finetune.epochs=1", "calibration.samples=100"]
    folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    return Composer(CONF).cell([*SMALL, *epochs, *folders, "method=magnitude", "budget.keep=0.4", *words])


def test_the_record_is_written_and_tracked_and_the_next_run_reads_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(tracker.Tracker, "summary", lambda self, values: seen.append(values))
    config = configured(tmp_path)
    record = cell.run(config)
    assert record.status == "done"
    assert Store.of(Paths.of(config["paths"])).find(record.key).metrics == record.metrics
    assert seen == [tracker.summary_of(record)]
    monkeypatch.setattr(Pruner, "prune", None)  # would fail if the cell ran again
    assert cell.run(config).metrics == record.metrics


def test_a_tracked_summary_has_the_figures_of_the_record():
    record = made(
        metrics={"dense": {"accuracy": 0.98}, "pruned": {"accuracy": 0.5}, "tuned": {"accuracy": 0.9, "macs": 12}},
        cost={"prune_seconds": 3.0},
        latency=[{"runtime": "eager", "batch": 1, "ratio": 2.5}],
    )
    found = tracker.summary_of(record)
    wanted = {
        **{"dense/accuracy": 0.98, "pruned/accuracy": 0.5, "tuned/accuracy": 0.9, "tuned/macs": 12},
        **{"achieved/compression": 4.0, "cost/prune_seconds": 3.0, "latency_ratio/eager/1": 2.5},
        **{"status": "done", "key": record.key},
    }
    assert wanted.items() <= found.items()


def test_a_worker_who_lost_its_lease_writes_neither_record_nor_network(tmp_path):
    config = configured(tmp_path, "save=true")
    with pytest.raises(Lost):
        cell.run(config, holds=lambda: False)
    assert not list((tmp_path / "results").rglob("*.json")) and not list((tmp_path / "results").rglob("*.safetensors"))


def test_a_worker_who_lost_its_lease_returns_what_the_other_wrote(tmp_path):
    config = configured(tmp_path)
    theirs = cell.run(config)
    store = Store.of(Paths.of(config["paths"]))
    [path] = store.runs.rglob(f"{theirs.key}.json")
    text = path.read_text()
    path.unlink()

    def holds():
        path.write_text(text)  # the other finishes first
        return False

    assert cell.run(config, holds).created == theirs.created


@pytest.mark.parametrize("rewind", ["init", "new", 1])
def test_survivors_are_rewound_to_the_point_that_is_named_and_then_trained_by_what_is_left_of_the_recipe(
    tmp_path, rewind, monkeypatch
):
    words = ("schedule=iterative", "schedule.steps=2", f"schedule.rewind={rewind}", "method=magnitude_edge")
    given, begun, prune, fit = [], [], Pruner.prune, cell.fit

    def spy(self, model, calibration, budget, seed, train, point):
        given.append({name: value.clone() for name, value in point.state_dict().items()})
        return prune(self, model, calibration, budget, seed, train, point)

    def watched(model, data, settings, seed, **named):
        if named.get("label", "").startswith(("step", "fine-tuning")):
            begun.append((named["first_epoch"], settings.epochs))
        return fit(model, data, settings, seed, **named)

    monkeypatch.setattr(Pruner, "prune", spy)
    monkeypatch.setattr(cell, "fit", watched)
    config = configured(tmp_path, *words)
    assert cell.run(config).status == "done"
    assert begun == [(1 if rewind == 1 else 0, 2)] * 2

    from benchmarks.models import build as built

    data = load(config["dataset"], 0, Paths.of(config["paths"]).cache)
    initial = built(config["model"], data.shape, data.classes, derive_seed(0, "scratch") if rewind == "new" else 0)
    same = all(torch.equal(value, given[0][name]) for name, value in initial.state_dict().items())
    assert same == (rewind != 1)


def test_without_rewinding_no_epoch_of_the_recipe_is_left_out(tmp_path):
    record = cell.run(configured(tmp_path, "trainer.finetune.epochs=2"))
    assert [row["epoch"] for row in record.history["finetune"]] == [1, 2]


def test_pruning_while_training_starts_afresh_and_meets_its_budget(tmp_path):
    words = ("method=flat_minimum", "trainer.train.epochs=12", "schedule.every=1000")
    record = cell.run(configured(tmp_path, *words))
    assert record.status == "done"
    assert record.budget.achieved.keep == pytest.approx(0.4, rel=0.06)
    assert len(record.curve) > 0
    assert all(0 < layer.kept < layer.units for layer in record.layers)
    assert record.metrics.pruned.parameters < record.metrics.dense.parameters


def test_calibration_samples_have_a_stream_of_their_own(tmp_path):
    config = configured(tmp_path)
    data = load(config["dataset"], 3, Paths.of(config["paths"]).cache)
    expected = torch.randperm(len(data.train), generator=stream(3, "calibration"))[:100].sort().values
    assert torch.equal(calibrate(data, config["calibration"], 3).indices, expected)


def test_the_memory_of_pruning_is_that_of_pruning_as_the_cell_does_it(tmp_path, monkeypatch):
    config, calls, prune = configured(tmp_path), [], Pruner.prune

    def spy(self, model, calibration, budget, seed=0, *rest):
        pruned = prune(self, model, calibration, budget, seed, *rest)
        calls.append((calibration.indices, seed, budget, {name: nodes.tolist() for name, nodes in pruned.kept.items()}))
        return pruned

    monkeypatch.setattr(Pruner, "prune", spy)
    cell.run(config)
    pruning_task({"config": config})()
    own, warming, measured = calls
    assert torch.equal(own[0], measured[0]) and own[1:] == measured[1:]
    assert len(warming[0]) == 32 and warming[3], "a tiny network has warmed up what is only loaded once"


def test_a_state_tells_its_scores_before_and_after_training(tmp_path):
    config = configured(tmp_path)
    data = load(config["dataset"], 0, Paths.of(config["paths"]).cache)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    states = States(data, model)
    states.add(model, {}, Score(0.25, None, 1.5))
    first, second = states.rows
    now = evaluate(model, data.validation)
    assert (first["step"], first["keep"], first["accuracy"]) == (0, 1.0, now.accuracy)
    assert (second["step"], second["pruned_accuracy"], second["pruned_loss"]) == (1, 0.25, 1.5)
    assert (second["accuracy"], second["loss"]) == (now.accuracy, now.loss)


@pytest.mark.parametrize("target,message", [
    ("methods.schedule.Iterative", "schedule.steps"),  # the class's own refusal, not Hydra's
    ("methods.schedule.MOST_STEPS", "cannot be built from methods.schedule.MOST_STEPS"),
    ("methods.nowhere.Schedule", "cannot be built from methods.nowhere.Schedule"),
])  # fmt: skip
def test_a_part_that_cannot_be_built_is_refused_in_its_own_words(target, message):
    with pytest.raises(BadInput, match=message):
        build({"_target_": target, "steps": 0}, "schedule")


def test_a_summary_tells_a_latency_as_what_it_is_and_the_budget_that_was_asked_for():
    row = {"runtime": "onnx", "batch": 8, "ratio": 2.0, "ratio_low": 1.5, "ratio_high": 2.5, "note": "two threads"}
    history = {"finetune": [{"epoch": n, "validation_accuracy": value} for n, value in ((1, 0.7), (2, 0.9), (3, 0.8))]}
    size = {stage: {"bytes": n, "encoded": n + 1, "compressed": n + 2} for stage, n in (("dense", 100), ("pruned", 50))}
    found = tracker.summary_of(made(latency=[row | {"dense_ms": 4.0, "pruned_ms": 2.0}], history=history, size=size))
    wanted = {
        **{"latency_ratio/onnx/8": 2.0, "latency_ratio_low/onnx/8": 1.5, "latency_ratio_high/onnx/8": 2.5},
        **{"latency_ms/dense/onnx/8": 4.0, "latency_ms/pruned/onnx/8": 2.0, "latency_note/onnx/8": "two threads"},
        **{"size/dense/bytes": 100, "size/pruned/compressed": 52, "best/validation_accuracy": 0.9},
        **{"budget/kind": "keep", "budget/value": 0.2},
    }
    assert wanted.items() <= found.items() and not any(name.startswith("latency/") for name in found)


def test_what_theories_predict_is_tracked_beside_what_was_measured():
    of_network = {"theory": "lq_bound", "predicted": 0.5, "measured": 0.4, "unit": "loss"}
    of_layer = {"theory": "obd_cost", "layer": "fc1", "predicted": 2.0, "measured": 3.0}
    record = made(predictions=[of_network, of_layer])
    found = tracker.summary_of(record)
    theories = {name: value for name, value in found.items() if name.startswith("theory/")}
    assert theories == {"theory/lq_bound/predicted": 0.5, "theory/lq_bound/measured": 0.4}
    rows = tracker.tables_of(record)["predictions"]
    assert [(row["theory"], row["layer"], row["measured"]) for row in rows] == [
        ("lq_bound", None, 0.4),
        ("obd_cost", "fc1", 3.0),
    ]


def test_runs_are_tagged_with_what_they_are_filtered_by():
    config = {"dataset": {"name": "digits"}, "model": {"name": "m" * 99}, "method": {"name": "spectral"}}
    assert tracker.tags_of(config) == ["digits", "m" * 64, "spectral"] and tracker.tags_of({"dataset": None}) == []
