"""A network in eight bits: near the float one, smaller, scored by the common scorer; on a record and on a board."""

import json

import pytest
import torch
from networks import calibration, make
from sample_records import made

from benchmarks.boards.board import boards
from benchmarks.boards.frame import rows_of
from benchmarks.boards.layout import csv_of, table_of
from benchmarks.cells import cell
from benchmarks.data.splits import Split
from benchmarks.measure import quantised
from benchmarks.measure.quantised import Deployed, in_int8, measure_quantised
from benchmarks.measure.runtimes.onnx import OnnxRuntime
from benchmarks.records.keys import cell_key
from benchmarks.records.schema import Record
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.training.scoring import evaluate
from methods.errors import BadInput

DATA = calibration(96)
COMPOSER = Composer(CONF)


@pytest.mark.slow
@pytest.mark.cpu("eight bits are computed by ONNX Runtime on the processor")
@pytest.mark.parametrize("name", ["chain", "batch_norm", "residual"])
def test_eight_bits_answer_nearly_as_the_network_does(name):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain, small = in_int8(model, DATA)
    with torch.no_grad():
        expected = model(DATA.inputs)
    assert torch.allclose(Deployed(plain)(DATA.inputs), expected, atol=1e-4)
    found = Deployed(small)(DATA.inputs)
    off = float((found - expected).abs().max() / (expected.max() - expected.min()))
    assert 0 < off < 0.05  # it is quantised, and by a few of 255 steps a layer
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_weights_take_a_byte_each():
    import onnx

    _, small = in_int8(make("wide"), DATA)
    weights = [
        each for each in onnx.load_from_string(small).graph.initializer if each.data_type == onnx.TensorProto.INT8
    ]
    held = sum(int(torch.tensor(each.dims).prod()) for each in weights if len(each.dims) > 1)
    assert held == sum(parameter.numel() for parameter in make("wide").parameters() if parameter.ndim > 1)


@pytest.mark.slow
def test_both_networks_are_scored_on_the_test_split():
    networks = {"dense": make("chain"), "pruned": make("chain", seed=1)}
    test = Split(DATA.inputs, DATA.labels, levels=1.0)
    timing = {"batches": [1, 4], "pairs": 2, "max_seconds": 0.01}
    found = measure_quantised(networks, DATA, test, DATA.inputs[:4], timing)
    for name, model in networks.items():
        score = evaluate(Deployed(in_int8(model, DATA)[1]), test)
        assert (found[name]["accuracy"], found[name]["loss"]) == (score.accuracy, score.loss)
        assert found[name]["bytes"] < found[name]["bytes_float"]
    assert [row["batch"] for row in found["latency"]] == [1, 4] and all(row["ratio"] > 0 for row in found["latency"])


def test_a_network_that_cannot_be_quantised_has_a_reason(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no such operation\nand more")

    monkeypatch.setattr(quantised, "to_onnx", fails)
    test = Split(DATA.inputs, DATA.labels, levels=1.0)
    found = measure_quantised({"dense": make("chain")}, DATA, test, DATA.inputs[:4], None)
    assert found == {"format": "int8", "note": "dense: cannot be quantised here: RuntimeError: no such operation"}


def test_it_is_asked_for_and_refused_where_it_cannot_be(monkeypatch, tmp_path):
    plain = COMPOSER.cell(["dataset=digits"])
    asked = COMPOSER.cell(["dataset=digits", "quantise=int8", f"paths.results={tmp_path}", "track=none"])
    older = {name: part for name, part in plain.items() if name != "quantise"}
    assert cell_key(plain) == cell_key(older) != cell_key(asked)
    with pytest.raises(BadInput, match="quantise=int4 is unknown; choose from int8"):
        cell.run(asked | {"quantise": "int4"})
    monkeypatch.setattr(OnnxRuntime, "missing", classmethod(lambda _: ["onnxruntime"]))
    with pytest.raises(BadInput, match=r"quantise=int8 needs onnxruntime.*secateurs\[onnx\]"):
        cell.run(asked)


EIGHT = {"accuracy": 0.93, "loss": 0.2, "top5": None, "bytes_float": 4000, "bytes": 1200}


def test_records_without_it_keep_their_text_and_those_with_it_their_figures():
    assert "quantised" not in json.loads(made().text())
    record = made(quantised={"format": "int8", "pruned": EIGHT, "note": None})
    content = json.loads(record.text())
    assert content["quantised"]["pruned"]["bytes"] == 1200
    content.pop("checksum")
    again = Record(**content)
    assert again.quantised == record.quantised and again.stamp == record.stamp != made().stamp


def test_a_board_has_columns_of_it_where_some_row_has_it():
    figures = {"format": "int8", "pruned": EIGHT, "latency": [{"runtime": "int8", "batch": 1, "ratio": 2.5}]}
    tuned = {"dense": {"accuracy": 0.98}, "pruned": {"accuracy": 0.91}, "tuned": {"accuracy": 0.95}}
    [plain] = boards(rows_of([made(metrics=tuned)]))
    assert "in int8" not in table_of(plain).columns
    [found] = boards(rows_of([made(metrics=tuned, quantised=figures), made(1, metrics=tuned, quantised=figures)]))
    table = table_of(found)
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    [row] = [row for row in rows if row["method"].startswith("spectral")]
    assert row["in int8"].startswith("93.00") and row["int8 bytes"] == "1,200" and row["latency int8 b1"] == "2.50×"
    assert any("static quantisation" in note for note in table.notes)
    assert "int8_accuracy_mean" in csv_of([found]).splitlines()[0]


@pytest.mark.slow
def test_a_cell_has_it_in_its_record(tmp_path):
    words = [
        "dataset=digits", "dataset.limit=100", "model=mlp", "trainer=tiny", "calibration.samples=50", "track=none",
        "measure=none", "method=magnitude", "quantise=int8",
        f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache",
    ]  # fmt: skip
    found = cell.run(COMPOSER.cell(words))
    assert found.status == "done" and found.quantised.note is None
    assert found.quantised.pruned.bytes < found.quantised.dense.bytes < found.quantised.dense.bytes_float
    assert abs(found.quantised.pruned.accuracy - found.metrics.tuned.accuracy) < 0.2
