"""Batch-norm statistics after pruning: renewed exactly, in a copy, and reported beside the stale ones."""

import json

import pytest
import torch
from networks import calibration, make
from sample_records import made

from benchmarks.boards.board import boards
from benchmarks.boards.frame import load
from benchmarks.boards.layout import csv_of, table_of
from benchmarks.measure.recalibration import batch_norms, recalibrated
from benchmarks.records.store import Store
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.run_command import main
from methods.layers.statistics import Calibration


def test_statistics_are_those_of_the_samples_and_nothing_else_changes():
    model, samples = make("batch_norm"), calibration()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    renewed = recalibrated(model, samples)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in renewed.named_parameters():
        assert torch.equal(value, before[name])
    maps = model[0](samples.inputs)
    assert torch.allclose(renewed[1].running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert [module.training for module in renewed.modules()] == [module.training for module in model.modules()]
    assert renewed[1].momentum == model[1].momentum
    # with the statistics of its own inputs, a batch norm's outputs are normalised
    with torch.no_grad():
        outputs = renewed.eval()[1](maps)
    shifted = (outputs - renewed[1].bias[:, None, None]).mean((0, 2, 3))
    assert torch.allclose(shifted, torch.zeros(8), atol=1e-4)


def test_batches_count_by_their_samples():
    model, samples = make("batch_norm"), calibration()
    parts = Calibration(samples.inputs[:25], samples.labels[:25], samples.indices[:25], 0, 12)  # 12, 12 and a lone one
    whole = Calibration(samples.inputs[:24], samples.labels[:24], samples.indices[:24], 0, 24)
    first, second = recalibrated(model, parts), recalibrated(model, whole)
    assert torch.allclose(first[1].running_mean, second[1].running_mean, atol=1e-5)


def test_without_batch_norm_there_is_nothing_to_renew():
    assert batch_norms(make("chain")) == [] and len(batch_norms(make("batch_norm"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("model", "there"), [("resnet20", True), ("mlp", False)])
def test_a_cell_reports_both(model, there, tmp_path):
    folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    words = ["dataset=digits", f"model={model}", "method=random", "trainer=tiny", "measure=none", "track=none"]
    assert main([*words, "dataset.limit=200", "calibration.samples=64", "budget.keep=0.5", *folders]) == 0
    [path] = (tmp_path / "results").glob("runs/*/*/*.json")
    metrics = json.loads(path.read_text())["metrics"]
    assert (metrics["recalibrated"] is not None) == there
    if there:
        assert metrics["recalibrated"]["macs"] == metrics["pruned"]["macs"]
        assert metrics["recalibrated"]["loss"] != metrics["pruned"]["loss"]


def test_boards_show_them_where_there_are_any(tmp_path):
    store = Store.of(Paths(tmp_path))
    store.write(made(0))
    [board] = boards(load(store)[0])
    assert "same, BN recalibrated" not in table_of(board).columns and "recalibrated" not in csv_of([board])
    record = made(1)
    renewed = record.metrics.pruned.model_copy(update={"accuracy": 0.77})
    store.write(record.model_copy(update={"metrics": record.metrics.model_copy(update={"recalibrated": renewed})}))
    [board] = boards(load(store)[0])
    table = table_of(board)
    place = table.columns.index("same, BN recalibrated")
    assert table.columns[place - 1] == "before fine-tuning"
    assert any(row[place].startswith("77.00") for row in table.rows)
    assert "recalibrated_accuracy_mean" in csv_of([board])
    for number in range(2):  # two more methods without them: the one figure is left to the CSV
        store.write(made(2 + number, method=f"other{number}", settings={"method": {"name": f"other{number}"}}))
    [board] = boards(load(store)[0])
    assert len(board.rows) > 3 and "same, BN recalibrated" not in table_of(board).columns
    assert "recalibrated_accuracy_mean" in csv_of([board])
