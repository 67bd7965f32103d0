"""Which network, split, seed stream and setting goes where in a cell: each promise by what comes out, or by a spy."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.cells import cell
from benchmarks.cells.parts import build_pruner
from benchmarks.cells.preparation import calibrate, trained_network
from benchmarks.data.splits import Split, load
from benchmarks.models.saved import load_network
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer
from benchmarks.training.scoring import evaluate
from methods.budgets.budget import Budget
from methods.pruner import Pruner
from methods.seeds import derive_seed

SMALL = ("dataset=digits", "dataset.limit=400", "model.widths=[20,16]", "measure=none", "track=none")


def configured(folder, *words):
    epochs = ["trainer.train.epochs=3", "trainer.finetune.epochs=2", "calibration.samples=100"]
    folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    return Composer(CONF).cell([*SMALL, *epochs, *folders, *words])


def prepared(config):
    """What the cell that ``config`` describes starts from, made by the same public parts in this test's own order."""
    paths = Paths.of(config["paths"])
    data = load(config["dataset"], config["seed"], paths.cache)
    dense = trained_network(config, data, paths)
    pruned = build_pruner(config).prune(
        dense.model,
        calibrate(data, config["calibration"], config["seed"]),
        Budget.parse(config["budget"]),
        derive_seed(config["seed"], "prune"),
    )
    return data, dense.model, pruned


def score(model, split):
    found = evaluate(model, split)
    return pytest.approx((found.accuracy, found.loss), rel=1e-5)


# --------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("method", ["magnitude", "magnitude_edge", "spectral"])
def test_each_stage_is_scored_on_its_own_network_and_on_the_test_split(tmp_path, method):
    epochs = "trainer.finetune.include_start=null"  # else the pruned network may stay what it was
    config = configured(tmp_path, f"method={method}", "budget.keep=0.4", "save=true", epochs)
    record = cell.run(config)
    assert record.status == "done"
    data, dense, pruned = prepared(config)
    tuned = load_network(Path(config["paths"]["results"]) / "networks" / record.key)
    stages = record.metrics
    for name, model in (("dense", dense), ("pruned", pruned.model), ("tuned", tuned)):
        stage = getattr(stages, name)
        assert (stage.accuracy, stage.loss) == score(model, data.test), name
        assert stage.parameters == sum(parameter.numel() for parameter in model.parameters()), name
    losses = {stages.dense.loss, stages.pruned.loss, stages.tuned.loss}
    assert len(losses) == 3  # three networks: a stage that was measured on another's would repeat its loss


def test_without_fine_tuning_before_and_after_are_one_network(tmp_path):
    record = cell.run(configured(tmp_path, "method=magnitude", "budget.keep=0.4", "trainer.finetune.epochs=0"))
    assert record.metrics.pruned == record.metrics.tuned
    assert record.history["finetune"] == []


# ----------------------------------------------------------------------------------------------------------- splits


def rows_of(split):
    return {row.numpy().tobytes() for row in split.to_inputs(slice(None))}


def test_pruning_sees_the_trained_network_and_training_samples_alone(tmp_path, monkeypatch):
    seen = {}
    prune = Pruner.prune

    def spy(self, model, calibration, budget, seed=0, *rest, **named):
        seen.update(state=model.state_dict(), inputs=calibration.inputs, labels=calibration.labels, seed=seed)
        seen.update(budget=budget)
        return prune(self, model, calibration, budget, seed, *rest, **named)

    monkeypatch.setattr(Pruner, "prune", spy)
    config = configured(tmp_path, "method=magnitude", "budget.keep=0.4", "seed=7")
    cell.run(config)
    monkeypatch.undo()
    data, dense, _ = prepared(config)
    calibration = {row.numpy().tobytes() for row in seen["inputs"]}
    assert len(seen["inputs"]) == 100
    assert calibration <= rows_of(data.train)
    assert not calibration & (rows_of(data.validation) - rows_of(data.train))
    assert not calibration & (rows_of(data.test) - rows_of(data.train))
    assert seen["budget"] == Budget.parse({"keep": 0.4})
    assert seen["seed"] == derive_seed(7, "prune")
    for name, value in dense.state_dict().items():
        assert torch.equal(seen["state"][name], value), name


def test_calibration_labels_belong_to_their_samples(tmp_path):
    config = configured(tmp_path, "dataset.validation=0.2")
    data = load(config["dataset"], 0, Paths.of(config["paths"]).cache)
    label = {}
    for row, target in zip(data.train.to_inputs(slice(None)), data.train.targets, strict=True):
        label.setdefault(row.numpy().tobytes(), set()).add(int(target))
    calibration = calibrate(data, {"samples": 64, "batch_size": 32}, 0)
    assert len(calibration.inputs) == 64
    for row, target in zip(calibration.inputs, calibration.labels, strict=True):
        assert int(target) in label[row.numpy().tobytes()]


def test_the_test_split_is_read_after_all_training_and_validation(tmp_path, monkeypatch):
    words = ("method=lottery_ticket", "schedule.steps=2", "budget.keep=0.4", "dataset.limit_test=77")
    order = []
    batches = Split.batches

    def spy(self, *given, **named):
        order.append("test" if len(self) == 77 else "train" if named.get("generator") is not None else "validation")
        return batches(self, *given, **named)

    monkeypatch.setattr(Split, "batches", spy)
    record = cell.run(configured(tmp_path, *words))
    assert record.status == "done"
    first = order.index("test")
    assert {"train", "validation"} <= set(order[:first])
    assert "train" not in order[first:]
    assert Counter(order)["test"] == 3  # dense, pruned and tuned, once each


@pytest.mark.parametrize("name", ["friedman1", "california_housing"])
def test_tabular_inputs_are_standardised_by_the_training_rows_alone(tmp_path, name, monkeypatch):
    if name == "california_housing":
        pytest.importorskip("sklearn")
        fake_housing(monkeypatch)
    config = configured(tmp_path, f"dataset={name}", "model=mlp", "dataset.limit=null")
    data = load(config["dataset"], 0, tmp_path / "cache")
    training = torch.cat([split.to_inputs(slice(None)) for split in (data.train, data.validation)]).double()
    assert training.mean(0).abs().max() < 1e-4
    assert (training.std(0, correction=0) - 1).abs().max() < 1e-4
    test = data.test.to_inputs(slice(None)).double()
    assert test.mean(0).abs().max() > 1e-3  # as the test rows would have if they had been used


def fake_housing(monkeypatch):
    """scikit-learn's loader without its download: rows of the same shape, the last fifth with another mean."""
    from types import SimpleNamespace

    import sklearn.datasets

    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(1000, 8, generator=generator).double()
    targets = torch.randn(1000, generator=generator).double()
    found = SimpleNamespace(data=rows.numpy(), target=targets.numpy())
    monkeypatch.setattr(sklearn.datasets, "fetch_california_housing", lambda *_, **__: found)


# ---------------------------------------------------------------------------------------------------------- streams


def streams(monkeypatch, config):
    """The seeds of the generators that order training batches, in turn, and those of the global stream (dropout)."""
    orders, dropouts = [], []
    batches, manual_seed = Split.batches, torch.manual_seed

    def spy(self, *given, **named):
        if named.get("generator") is not None:
            orders.append(named["generator"].initial_seed())
        return batches(self, *given, **named)

    def seeded(value):
        dropouts.append(value)
        return manual_seed(value)

    with monkeypatch.context() as patched:
        patched.setattr(Split, "batches", spy)
        patched.setattr(torch, "manual_seed", seeded)
        record = cell.run(config)
    assert record.status == "done"
    return orders, dropouts


def test_every_epoch_of_every_stage_has_its_own_order_and_dropout_and_another_seed_has_others(tmp_path, monkeypatch):
    words = ("method=magnitude_edge", "schedule=iterative", "schedule.steps=3", "budget.keep=0.3")
    everything = []
    for seed in (0, 1):
        orders, dropouts = streams(monkeypatch, configured(tmp_path, *words, f"seed={seed}"))
        assert len(orders) >= 3 + 2 * 2 + 2  # dense, two steps, fine-tuning
        assert len(set(orders)) == len(orders)
        assert len(set(dropouts)) >= len(orders)
        everything += orders
    assert len(set(everything)) == len(everything)


def test_what_a_method_draws_differs_between_steps_and_layers_and_seeds():
    from networks import calibration, make

    from methods.baselines.random import RandomSelection
    from methods.schedule import Iterative

    class Drawing(RandomSelection):
        def __init__(self):
            super().__init__()
            self.drawn = []

        def scores(self, layer):
            self.drawn.append((layer.name, layer.generator.initial_seed()))
            return super().scores(layer)

    everything = []
    for seed in (0, 1):
        selection = Drawing()
        pruned = Pruner(selection, schedule=Iterative(steps=3)).prune(
            make("chain"), calibration(), Budget.parse({"keep": 0.3}), seed
        )
        by_layer = Counter(name for name, _ in selection.drawn)
        assert len(by_layer) == len(pruned.layers)
        streams = {drawn for _, drawn in selection.drawn}
        assert len(streams) == 3 * len(by_layer)  # one for each layer in each step
        everything += streams
    assert len(set(everything)) == len(everything)


def test_the_random_method_follows_the_cells_seed(tmp_path):
    """At equal networks: only the stream of pruning differs."""
    config = configured(tmp_path, "method=random", "budget.keep=0.4")
    data, dense, first = prepared(config)
    pruner = build_pruner(config)
    calibration = calibrate(data, config["calibration"], 0)
    again, other = (
        pruner.prune(dense, calibration, Budget.parse(config["budget"]), seed)
        for seed in (derive_seed(0, "prune"), derive_seed(1, "prune"))
    )
    same = {name: torch.equal(nodes, first.kept[name]) for name, nodes in again.kept.items()}
    assert all(same.values())
    assert any(not torch.equal(nodes, first.kept[name]) for name, nodes in other.kept.items())


# --------------------------------------------------------------------------------------------------------- settings


def test_stages_are_trained_by_their_own_settings(tmp_path):
    words = ("method=magnitude", "budget.keep=0.4", "trainer.finetune.learning_rate=0.003", "trainer.finetune.epochs=1")
    words += ("trainer.finetune.schedule=constant", "trainer.train.schedule=constant")
    record = cell.run(configured(tmp_path, *words, "trainer.train.learning_rate=0.07"))
    assert [row["lr"] for row in record.history["train"]] == [0.07] * 3
    assert [row["lr"] for row in record.history["finetune"]] == [0.003]
    assert record.cost.calibration_samples == 100


def test_masked_weights_of_the_saved_network_are_zero(tmp_path):
    config = configured(tmp_path, "method=magnitude_edge", "budget.keep=0.3", "save=true")
    record = cell.run(config)
    _, _, pruned = prepared(config)
    tuned = load_network(Path(config["paths"]["results"]) / "networks" / record.key)
    state = tuned.state_dict()
    for name, mask in pruned.masks.items():
        assert not state[name][~mask].any(), name
        assert state[name][mask].all(), name
    assert record.metrics.tuned.nonzero == record.metrics.pruned.nonzero < record.metrics.dense.nonzero


def test_latency_is_timed_with_the_threads_that_were_asked_for(monkeypatch):
    from benchmarks.measure.latency import fixed_threads

    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    with fixed_threads(3):
        assert asked == [3]
    assert asked == [3, 5]


def test_a_cell_times_its_dense_and_its_pruned_network_with_its_threads(tmp_path, monkeypatch):
    from benchmarks.measure import latency

    asked = []
    fixed = latency.fixed_threads

    def spy(number):
        asked.append(number)
        return fixed(number)

    monkeypatch.setattr(latency, "fixed_threads", spy)
    words = ("measure=default", "measure.latency.threads=2", "measure.latency.pairs=4", "measure.latency.max_seconds=2")
    config = configured(tmp_path, "method=magnitude", "budget.keep=0.4", *words)
    record = cell.run(config)
    assert record.latency
    assert set(asked) == {2}
    json.dumps(record.model_dump()["latency"])
