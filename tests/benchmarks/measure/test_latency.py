"""Timing. No test depends on how fast anything is: clocks are simulated, and real ones only have to give numbers."""

import copy
import gc
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import make, noise
from torch import nn

from benchmarks.measure import latency
from benchmarks.measure.latency import Settings, bootstrap_median, half_width, measure_latency, time_pairs
from benchmarks.measure.lock import NAME, one_at_a_time
from benchmarks.measure.runtimes import RUNTIMES, Conditions, Runtime
from benchmarks.measure.runtimes.runtime import as_tensor
from benchmarks.measure.runtimes.sparse import SPARSITIES, SparseCsr, SparseLinear, break_even, with_sparse_layers
from benchmarks.measure.runtimes.sparse_2_4 import Sparse24, layers_with_2_of_4
from benchmarks.records.schema import Latency
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

pytestmark = pytest.mark.slow

QUICK = {"runtimes": ["eager"], "batches": [1, 8], "pairs": 3, "threads": 1, "target": 10, "max_seconds": 0.01}


@pytest.fixture(autouse=True)
def own_lock(monkeypatch, tmp_path):
    """Tests take no part in the queue of real measurements."""
    monkeypatch.setattr(latency, "one_at_a_time", lambda: one_at_a_time(tmp_path))


class Machine:
    """A simulated machine: ``first`` takes 2 ms, ``second`` 1 ms, times a drift that both feel, times noise."""

    def __init__(self, noise=0.0, drift=0.0, seed=0):
        self.random, self.noise, self.drift = np.random.default_rng(seed), noise, drift
        self.calls = []

    def first(self):
        raise AssertionError("a simulated clock runs nothing")

    def second(self):
        raise AssertionError("a simulated clock runs nothing")

    def clock(self, run, repeats):
        self.calls.append(run.__name__)
        base = {"first": 2e-3, "second": 1e-3}[run.__name__]
        slow = math.exp(self.drift * len(self.calls))
        return base * slow * math.exp(self.noise * self.random.standard_normal())

    def time(self, **options):
        return time_pairs(self.first, self.second, clock=self.clock, **options)


def test_a_quiet_machine_needs_no_more_pairs_than_asked_for():
    figures = Machine().time(pairs=10)
    assert figures["pairs"] == 10 and figures["note"] is None
    assert figures["ratio"] == figures["ratio_low"] == figures["ratio_high"] == pytest.approx(2)
    assert figures["dense_ms"] == pytest.approx(2) and figures["pruned_ms"] == pytest.approx(1)
    assert figures["dense_iqr_ms"] == pytest.approx(0)


def test_dense_and_pruned_take_turns():
    machine = Machine()
    machine.time(pairs=6)
    assert machine.calls[-12:] == ["first", "second"] * 6


def test_a_drift_of_the_machine_cancels_in_pairs():
    figures = Machine(drift=0.05).time(pairs=20)
    assert figures["dense_iqr_ms"] > figures["dense_ms"] / 2  # times differ by more than 6 times ...
    assert figures["ratio"] == pytest.approx(2 * math.exp(-0.05))  # ... the ratio only by what passes within a pair
    assert half_width(figures) < 1e-9


def test_pairs_are_added_until_the_target_is_reached():
    figures = Machine(noise=0.1).time(pairs=10, target=0.03, max_seconds=100)
    assert figures["pairs"] > 10 and figures["note"] is None
    assert half_width(figures) <= 0.03


def test_a_target_out_of_reach_is_said():
    figures = Machine(noise=0.5).time(pairs=10, target=0.001, max_seconds=0.3)
    assert half_width(figures) > 0.001
    assert figures["note"] == f"the ratio's interval is ±{half_width(figures):.1%}, not the ±0.1% asked for"


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_claims():
    inside = 0
    for seed in range(60):
        figures = Machine(noise=0.1, seed=seed).time(pairs=20, target=0.03, max_seconds=100)
        inside += figures["ratio_low"] <= 2 <= figures["ratio_high"]
    assert inside >= 50


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_the_bootstrap_interval_is_in_the_data_and_reproducible(values):
    values = np.array(values)
    low, high = bootstrap_median(values)
    assert values.min() <= low <= high <= values.max()
    assert (low, high) == bootstrap_median(values)


def test_rows_say_how_they_were_taken():
    threads = torch.get_num_threads()
    rows = measure_latency(make("residual"), make("residual", 1), noise(3, 1, 8, 8), QUICK)
    assert [row["batch"] for row in rows] == [1, 8]
    for row in rows:
        assert {"runtime": "eager", "threads": 1, "precision": "float32"}.items() <= row.items()
        assert row["version"].startswith("torch 2.")
        assert row["pairs"] >= 3 and row["difference"] == 0
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert Latency(**row).batch == row["batch"]
    assert torch.get_num_threads() == threads and gc.isenabled()


def test_networks_are_left_as_they_were():
    dense = make("batch_norm").train()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    measure_latency(dense, make("batch_norm"), noise(3, 1, 8, 8), QUICK)
    assert dense.training and all(parameter.requires_grad for parameter in dense.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())


def test_masked_networks_are_timed_as_they_are_and_the_row_says_so():
    dense = make("chain")
    masked = copy.deepcopy(dense)
    with torch.no_grad():
        masked[1].weight[:10] = 0
    example = noise(3, 1, 8, 8)
    notes = [measure_latency(dense, other, example, QUICK)[0]["note"] or "" for other in (masked, make("chain", 1))]
    assert "masked" in notes[0] and "masked" not in notes[1]


class Wrong(Runtime):
    name = "wrong"

    def prepare(self, model, inputs, conditions):
        return lambda: model(inputs) + 1


class Broken(Runtime):
    name = "broken"

    def prepare(self, model, inputs, conditions):
        raise RuntimeError("no kernel for this\nand a long trace")


def test_a_runtime_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "wrong", Wrong)
    monkeypatch.setitem(RUNTIMES, "broken", Broken)
    chosen = QUICK | {"runtimes": ["wrong", "broken", "eager"], "batches": [2]}
    wrong, broken, eager = measure_latency(make("chain"), make("chain"), noise(3, 1, 8, 8), chosen)
    assert "outputs differ" in wrong["note"] and "ratio" not in wrong
    assert broken["note"] == "cannot run here: RuntimeError: no kernel for this"
    assert eager["ratio"] > 0
    assert Latency(**wrong).ratio is None


RUNS = [
    ("eager", Conditions(), "residual", 1e-6),
    ("eager", Conditions(channels_last=True), "residual", 1e-5),
    ("eager", Conditions(precision="bfloat16"), "residual", 0.1),
    ("onnxruntime", Conditions(), "residual", 1e-5),
    ("onnxruntime", Conditions(), "batch_norm", 1e-5),
    ("sparse_csr", Conditions(), "convolution", 1e-5),
    pytest.param("compile", Conditions(), "chain", 1e-5, marks=pytest.mark.slow),
]


@pytest.mark.cpu("runtimes of the processor")
@pytest.mark.parametrize(("name", "conditions", "network", "tolerance"), RUNS)
def test_runtimes_compute_what_eager_computes(name, conditions, network, tolerance):
    runtime = RUNTIMES[name]()
    if runtime.missing():
        pytest.skip(f"{name} is not installed")
    model, inputs = make(network), noise(4, 1, 8, 8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight[:, ::2] = 0
    runtime.fresh()
    run = runtime.prepare(model, inputs, conditions)
    expected = model(inputs).detach()
    assert (as_tensor(run()) - expected).abs().max() <= tolerance * expected.abs().max()
    assert torch.equal(model(inputs), expected)


def test_onnxruntime_is_told_to_talk_to_nobody_before_it_is_imported():
    if RUNTIMES["onnxruntime"].missing():
        pytest.skip("onnxruntime is not installed")
    code = (
        "import os, sys, benchmarks.measure.latency\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "from benchmarks.measure.runtimes.onnx import open_session\n"
        "try: open_session(b'')\n"
        "except Exception: pass\n"
        "assert 'onnxruntime' in sys.modules and os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.cpu("a runtime of the processor")
def test_only_linear_layers_with_zeros_become_sparse():
    model = make("convolution")
    with torch.no_grad():
        model[0].weight.zero_()
        model[6].weight[:, 0] = 0
    runtime, inputs = SparseCsr(), noise(2, 1, 8, 8)
    changed = with_sparse_layers(copy.deepcopy(model))
    assert [type(module) for module in changed] == [
        SparseLinear if index == 6 else type(module) for index, module in enumerate(model)
    ]
    assert runtime.figures(model, model, inputs, Conditions())["sparse_layers"] == 1
    assert break_even(make("chain"), inputs, Conditions()) in (None, *SPARSITIES)
    assert break_even(nn.Conv2d(1, 2, 3), inputs, Conditions()) is None


@pytest.mark.cpu("a runtime of the processor")
def test_sparse_layers_take_tokens():
    layer = nn.Linear(6, 4)
    with torch.no_grad():
        layer.weight[0] = 0
    x = noise(3, 5, 6)
    assert torch.allclose(SparseLinear(layer)(x), layer(x), atol=1e-6)


def test_layers_for_the_sparse_cores_have_two_zeros_in_four_and_sizes_that_fit():
    def layer(columns, rows, zeros):
        linear = nn.Linear(columns, rows)
        with torch.no_grad():
            for place in zeros:
                linear.weight[:, place::4] = 0
        return linear

    fits, more = layer(128, 32, (0, 2)), layer(64, 64, (0, 1, 2))
    model = nn.Sequential(fits, layer(128, 32, (1,)), layer(96, 32, (0, 2)), layer(64, 40, (0, 2)), more)
    assert layers_with_2_of_4(model) == [fits, more]
    with torch.no_grad():
        fits.weight[5, 0] = 1.0  # three of four in one place
    assert layers_with_2_of_4(model) == [more]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_sparse_cores_compute_what_eager_computes():
    model, inputs = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)), noise(16, 128)
    with torch.no_grad():
        for index in (0, 2):
            model[index].weight[:, ::2] = 0
    run = Sparse24().prepare(model, inputs, Conditions(precision="float16", device="cuda"))
    expected = model(inputs).detach()
    assert (as_tensor(run()) - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtimes": ["eger"]}, "choose from eager"),
        ({"batches": [0]}, "below 1"),
        ({"batches": []}, "too short a list"),
        ({"pairs": 0}, "below 1"),
        ({"threads": -1}, "below 1"),
        ({"target": 0}, "above 0"),
        ({"precision": "int8"}, "choose from float32"),
        ({"runtimes": ["sparse_csr"], "precision": "bfloat16"}, "sparse_csr runs in float32"),
        ({"runtimes": ["sparse_csr"], "channels_last": True}, "own layout"),
        ({"device": "tpu"}, "choose from cpu, cuda"),
        ({"pears": 3}, "unknown key 'measure.latency.pears'"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(change, message):
    with pytest.raises(BadInput, match=message):
        Settings.parse(QUICK | change)


def test_a_runtime_that_is_not_installed_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setattr(RUNTIMES["openvino"], "packages", ("no_such_package",))
    with pytest.raises(BadInput, match=r'needs no_such_package.*pip install "secateurs\[openvino\]"'):
        Settings.parse(QUICK | {"runtimes": ["openvino"]})


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="sparse_2_4 needs a GPU"):
        Settings.parse(QUICK | {"runtimes": ["eager", "sparse_2_4"], "precision": "float16"})
    with pytest.raises(BadInput, match="no GPU"):
        Settings.parse(QUICK | {"device": "cuda"})
    assert Settings.parse(QUICK).conditions(RUNTIMES["eager"]()).device == "cpu"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "conf" / "measure").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_measurements_of_the_configuration_are_sound(path):
    section = yaml.safe_load(path.read_text())
    if section["latency"]:
        assert Settings.parse(section["latency"]).pairs >= 10
    assert section["memory"] is None


HOLD = "import sys, pathlib\nfrom benchmarks.measure.lock import one_at_a_time\n" + (
    "with one_at_a_time(pathlib.Path(sys.argv[1])) as alone:\n    print(alone, flush=True)\n    sys.stdin.read()\n"
)


def test_one_process_times_at_once_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert holder.stdout.readline().strip() == "True"
        with one_at_a_time(tmp_path, patience=0.05) as alone:
            assert not alone
    finally:
        holder.kill()
        holder.wait()
    with one_at_a_time(tmp_path, patience=30) as alone:
        assert alone
        with one_at_a_time(tmp_path, patience=0) as second:
            assert not second
    with one_at_a_time(tmp_path, patience=0) as alone:
        assert alone


def test_without_a_lock_to_be_had_measurements_go_on(tmp_path):
    with one_at_a_time(tmp_path / "absent") as alone:
        assert alone
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with one_at_a_time(tmp_path) as alone:
        assert alone
    assert not (tmp_path / "elsewhere").exists()


def test_a_measurement_beside_another_one_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(latency, "one_at_a_time", lambda: one_at_a_time(tmp_path, patience=0))
    with one_at_a_time(tmp_path):
        [row, _] = measure_latency(make("chain"), make("chain"), noise(2, 1, 8, 8), QUICK)
    assert "another measurement" in row["note"]
