"""The real command on tiny settings: what a user types, right and wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from forking import Forking
from safetensors.torch import save_file

import benchmarks.cells.cell
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer

ROOT = Path(__file__).parents[3]
TINY = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]


@pytest.fixture
def command(tmp_path):
    """Runs a command of the suite with results and caches of its own; ``cold``: in a new interpreter."""

    def run(*words, cold=False, **environment):
        tail = [] if "--help" in words else [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SECATEURS_DATA": "", "COLUMNS": "200", **environment}
        if not cold:
            return warm.run("run.py", [*words, *tail], env, tmp_path)
        command = [sys.executable, "run.py", *words, *tail]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    run.results = tmp_path / "results"
    run.cache = tmp_path / "cache"
    return run


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Asks a command in a fork of a process that has carried out some: for what is refused, in a third of a second."""
    folder = tmp_path_factory.mktemp("asked")
    own = {"OMP_NUM_THREADS": "1", "SECATEURS_DATA": "", "COLUMNS": "200"}
    with Forking(os.environ | own, folder, [["--cfg", "job"], ["seed=abc", "--dry-run"]]) as forking:
        yield forking


def records(command):
    return [json.loads(path.read_text()) for path in sorted(command.results.glob("runs/*/*/*.json"))]


@pytest.mark.slow
def test_a_sweep_leaves_valid_records_and_a_board_and_the_second_time_does_nothing(command):
    words = ["-m", "method=spectral,random", "compensation=none,least_squares", *TINY]
    first = command(*words, cold=True)
    assert first.returncode == 0, first.stderr
    assert "4 cells: 0 done already, 4 to run" in first.stdout
    assert first.stdout.count("✓") == 4
    places = re.findall(
        r"^\[(\d)/4\] ✓ .*: accuracy [\d.]+ % dense, [\d.]+ % pruned, [\d.]+ % tuned", first.stdout, re.M
    )
    assert places == ["1", "2", "3", "4"] and len(re.findall(r", about \d+ \S+ left$", first.stdout, re.M)) == 3
    found = records(command)
    assert sorted((r["method"], r["status"]) for r in found) == [("random", "done")] * 2 + [("spectral", "done")] * 2
    for record in found:
        assert record["budget"]["achieved"]["compression"] == pytest.approx(4, rel=0.01)
        for stage in ("dense", "pruned", "tuned"):
            assert 0 <= record["metrics"][stage]["accuracy"] <= 1
        assert record["metrics"]["tuned"]["macs"] < record["metrics"]["dense"]["macs"]
    assert len(list(command.cache.glob("dense/*/dense*.safetensors"))) == 1  # one dense network for four cells
    assert (command.results / "boards/leaderboard.md").exists()
    assert (command.results / "boards/leaderboard.csv").exists()
    stamps = {path: path.stat().st_mtime_ns for path in command.results.glob("runs/*/*/*.json")}
    second = command(*words)
    assert second.returncode == 0
    assert "4 cells: 4 done already, 0 to run" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in command.results.glob("runs/*/*/*.json")} == stamps


@pytest.mark.slow
def test_an_experiment_without_m_is_one_cell_and_says_how_to_run_its_grid(command):
    result = command("+experiment=digits_latency", "method=random", *TINY)
    assert result.returncode == 0 and len(records(command)) == 1
    assert "python run.py -m +experiment=digits_latency" in result.stdout
    assert "+experiment" not in command("method=magnitude", *TINY).stdout


def test_a_dry_run_lists_the_cells_and_runs_none(command):
    result = command("-m", "method=spectral,dpp", "seed=0,1", "--dry-run", *TINY)
    assert result.returncode == 0
    assert result.stdout.count("missing") == 4
    assert records(command) == []


@pytest.mark.slow
def test_a_dry_run_says_what_is_reviewed(command):
    words = ("method=random", *TINY)
    assert command(*words).returncode == 0
    (command.results / "runs").rename(command.results / "cells")
    result = command(*words, "--dry-run")
    assert result.returncode == 0
    assert result.stdout.startswith("reviewed") and "missing" not in result.stdout
    assert "1 cell of" in result.stdout and "computes it anew" in result.stdout


@pytest.mark.slow
def test_rewinding_to_epoch_0_is_rewinding_to_the_initial_weights(command):
    for point in ("0", "init"):
        assert command("method=magnitude", "schedule=from_init", f"schedule.rewind={point}", *TINY).returncode == 0
    first, second = (record["metrics"]["pruned"] for record in records(command))
    assert first == second


@pytest.mark.slow
def test_a_budget_that_cannot_be_reached_is_a_result(command):
    words = ("-m", "budget.compression=2,100000", "method=magnitude", *TINY)
    result = command(*words)
    assert result.returncode == 0
    by_status = {record["status"]: record for record in records(command)}
    assert set(by_status) == {"done", "skipped"}
    assert "budget.compression=100000 cannot be reached" in by_status["skipped"]["reason"]
    assert result.stdout.count("skipped: budget.compression=100000 cannot be reached") == 1
    again = command(*words)
    assert again.returncode == 0 and "2 done already, 0 to run" in again.stdout


WRONG_SCORES = """
from methods import NodeLayer, Selection


class Wrong(Selection[NodeLayer]):
    def scores(self, layer):
        return layer.bias[:-1]


class Broken(Selection[NodeLayer]):
    def scores(self, layer):
        raise KeyError("of the selection")
"""


@pytest.mark.slow
@pytest.mark.parametrize("swept", [True, False], ids=["sweep", "one cell"])
def test_a_part_that_breaks_its_contract_is_told_once_and_leaves_no_record(command, tmp_path, swept):
    (tmp_path / "broken_part.py").write_text(WRONG_SCORES)
    seeds = ["-m", "seed=0,1"] if swept else []
    own = [*seeds, "method=onorm", "selection._target_=broken_part.Wrong", *TINY]
    result = command(*own, cold=True, PYTHONPATH=str(tmp_path))
    said = result.stdout + result.stderr
    assert result.returncode == 1 and "Traceback" not in said
    assert said.count("expected a tensor of shape") == 1
    assert f"{1 + swept} of {1 + swept} cells have no record" in said
    assert records(command) == []
    shown = command(*own, "--dry-run", cold=True, PYTHONPATH=str(tmp_path))
    assert shown.stdout.count("missing") == 1 + swept


@pytest.mark.slow
def test_a_fault_that_is_refused_takes_the_record_of_an_earlier_failure_with_it(command, tmp_path):
    (tmp_path / "fickle_part.py").write_text(WRONG_SCORES.replace("Broken", "Fickle"))
    words = ["method=onorm", "selection._target_=fickle_part.Fickle", *TINY]
    assert command(*words, cold=True, PYTHONPATH=str(tmp_path)).returncode == 1
    assert [record["status"] for record in records(command)] == ["failed"]
    (tmp_path / "fickle_part.py").write_text(WRONG_SCORES.replace("Wrong", "Fickle").replace("Broken", "Other"))
    assert command(*words, cold=True, PYTHONPATH=str(tmp_path)).returncode == 1
    assert records(command) == []


@pytest.mark.slow
def test_a_fault_of_ours_keeps_its_traceback_in_the_record(command, tmp_path):
    (tmp_path / "faulty.py").write_text(
        "from torch import nn\n"
        "class Faulty(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            raise KeyError('of the network')\n"
        "        return super().forward(x)\n"
    )
    words = ["method=magnitude", "model._target_=faulty.Faulty", *TINY]
    result = command(*words, cold=True, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    [record] = records(command)
    assert record["status"] == "failed" and "KeyError" in record["traceback"]
    assert str(Path.home()) not in json.dumps(record)


BAD = {
    "data folder": (["dataset=mnist", "dataset.source=/nonexistent/mnist"], "/nonexistent/mnist", "dataset.source"),
    "shape": (["model=lenet5"], "model lenet5 cannot take inputs of shape", "model=mlp"),
    "no module": (["model._target_=torch.nn.Bilinear"], "model Bilinear: .* cannot be built", "its arguments are"),
    "method": (["method=spektral"], r"unknown method 'spektral'; choose from .*spectral", "type method=spectral"),
    "dataset": (["dataset=minst"], "unknown dataset 'minst'; choose from .*mnist", "type dataset=mnist"),
    "model": (["model=resnet19"], "unknown model 'resnet19'; choose from .*resnet20", "type model=resnet"),
    "key": (["methd=spectral"], "unknown key 'methd'", "did you mean method"),
    "cells to show": (["-m", "seed=0,1", "--cfg"], "--cfg shows one cell, these are 2", "run.py seed=0 "),
    "record to show": (["from_record=x.json", "--cfg"], "--cfg shows what words ask for", "in its file"),
    "key to show": (["foo=1", "--cfg"], "unknown key 'foo'", "did you mean one of allocation, budget"),
    "no key like it": (["foo=1"], "unknown key 'foo'", "did you mean one of allocation, budget"),
    "nested key": (["budget.keeep=0.5"], "unknown key 'budget.keeep'", "--cfg"),
    "keep": (["budget.keep=1.5"], r"budget.keep=1.5 is outside \(0, 1\]", "type budget.keep=0.5"),
    "keep 0": (["budget.keep=0"], r"budget.keep=0 is outside \(0, 1\]", "type budget.keep=0.5"),
    "compression": (["budget.compression=0.5"], "budget.compression=0.5 is outside", "type budget.compression=2"),
    "two budgets": (["budget.keep=0.5", "budget.speedup=2"], "two budgets at once", "set the other to null"),
    "no -m": (["method=spectral,dpp"], "several values for one key need a sweep", "run.py -m"),
    "experiments": (["-m", "+experiment=digits,theory"], "one at a time", "type python run.py -m +experiment=digits"),
    "group": (["budget=0.5"], "take the name of a choice", "type for instance budget.keep=0.5"),
    "seed": (["seed=abc"], "seed=abc is not a whole number", "type for instance seed=1"),
    "budget word": (["budget.speedup=fast"], "budget.speedup=fast is not a number", "budget.speedup=2"),
    "samples word": (["calibration.samples=many"], "calibration.samples=many is not a whole number", "samples=1000"),
    "limit word": (["dataset.limit=all"], "dataset.limit=all is not a whole number", "dataset.limit=1000"),
    "augment": (["dataset.augment=5"], "dataset.augment=5 is not a section of keys", "{crop:4,flip:true}"),
    "batches": (["measure.latency.batches=abc"], "measure.latency.batches=abc", "[1,256]"),
    "flag": (["--sweep"], "unknown option --sweep", "--help"),
    "word": (["spectral"], "cannot read 'spectral'", "KEY=VALUE"),
    "theta": (["selection.theta=2"], "theta", ""),
    "rate": (["trainer.train.learning_rate=-1"], "trainer.train.learning_rate", ""),
    "long seed": (["seed=9223372036854775808"], "is not a whole number of 64 bits", "type for instance seed=1"),
    "batch size": (["calibration.batch_size=0"], "calibration.batch_size=0 is below 1", "calibration.batch_size=256"),
    "section": (["trainer.finetune=null"], "trainer.finetune=null is not a section", "trainer.finetune.epochs=5"),
    "referred to": (["trainer.train=null"], "'train' is a section of keys", "--cfg"),
    "switch": (["save=maybe"], "save=maybe is neither true nor false", "type for instance save=true"),
    "unit": (["method=magnitude", "selection.unit=foo"], "selection.unit=foo is unknown", "choose node or edge"),
    "steps": (
        ["schedule=iterative", "schedule.steps=2.5"],
        "schedule.steps=2.5 is not a whole number",
        "schedule.steps=5",
    ),
    "trials": (["method=cbs", "selection.trials=-3"], "selection.trials=-3 is below 1", "selection.trials=50"),
    "damping": (["method=cbs", "selection.damping=-1"], "selection.damping=-1 is negative", "selection.damping=1e-3"),
    "edge repair": (["method=magnitude", "compensation=obs"], "edge units.*removes node units", "least_squares"),
    "node repair": (["method=magnitude_edge", "compensation=kronecker"], "node units.*removes edge", "none"),
    "eigen repair": (["method=eigendamage", "compensation=least_squares"], "removes eigen units", "compensation=none"),
    "eigen counts": (["method=eigendamage", "allocation=global"], "by itself", "type allocation=uniform"),
    "edge counts": (["method=magnitude", "allocation=sap"], "sizes layers of edge units", "type allocation=uniform"),
    "densities": (["method=spectral", "allocation=erdos_renyi"], "sizes layers of edge units", "removes edge units"),
    "rounded edges": (
        ["method=obd", "allocation.round_to=8"],
        "rounds numbers of channels",
        "allocation.round_to=null",
    ),
    "no explanation": (["method=thinet", "allocation=information"], "how much k nodes explain", "method=spectral"),
    "no scores": (["method=dpp", "allocation=global"], "it has no score per unit", "use allocation=uniform"),
    "no gains": (["method=cbs", "allocation=global_per_cost"], "it has no score per unit", "use allocation=uniform"),
    "pattern": (
        ["method=exact_obs", "selection.pattern='2:4'", "budget.keep=0.25"],
        "keeps 0.5 of every layer, .* asks for 0.25",
        "schedule=one_shot budget.keep=0.5",
    ),
    "pattern and default": (
        ["method=exact_obs", "selection.pattern='2:4'"],
        "keeps 0.5 of every layer, .* asks for 0.25",
        "type allocation=uniform schedule=one_shot budget.keep=0.5",
    ),
    "pattern in steps": (
        ["method=exact_obs", "selection.pattern='2:4'", "budget.keep=0.5", "schedule=iterative"],
        "a step of the schedule, asks for 0.871",
        "schedule=one_shot",
    ),
    "uneven pattern": (
        ["method=exact_obs", "selection.pattern='2:4'", "budget.keep=0.5", "allocation=erdos_renyi"],
        "keeps 0.5 of every layer, and the allocation ErdosRenyiKernel gives layers other shares",
        "type allocation=uniform",
    ),
    "whole method": (["method=magnitude", "schedule=flat_minimum"], "whole of method", "type method=flat_minimum"),
    "rewind late": (["schedule=iterative", "schedule.rewind=5000"], "after the end", "type schedule.rewind="),
    "rewind to other": (["schedule=lottery", "dense.checkpoint=a.safetensors"], "elsewhere", "schedule.rewind=none"),
    "no widths": (["allocation=explicit"], "keeps what it is told", "'allocation.widths={fc1: 12}'"),
    "half widths": (["allocation=explicit", "allocation.widths={fc1: 1.5}"], "not a whole number", "12"),
    "option": (
        ["method=magnitude", "selection.nrom=2"],
        "unknown key 'selection.nrom'",
        "did you mean selection.norm?",
    ),
    "option type": (["method=lq", "selection.q=abc"], "selection.q=abc is not a number", "selection.q=0.5"),
    "target": (["selection._target_=methods.nope.X"], "selection cannot be built from methods.nope.X", "No module"),
    "rounding": (["allocation.round_to=2.5"], "allocation.round_to=2.5 is not a whole number", "round_to=8"),
    "no options": (["method=kron_obd", "compensation.damping=1"], "Compensation takes no options", "leave it out"),
    "part": (["selection=foo"], "selection=foo is not a section of keys", "method=magnitude"),
    "model option": (["model.wdths=[3]"], "unknown key 'model.wdths'", "did you mean model.widths?"),
    "model type": (
        ["model.bias=maybe"],
        "model.bias=maybe is neither true nor false",
        "type for instance model.bias=true",
    ),
    "widths word": (["model.widths=wide"], "model.widths=wide is not a list", ""),
    "factors": (["method=kron_obs", "selection.damping=-1"], "damping=-1 is not a number from 0", "damping=1e-3"),
    "probes": (["method=hap", "selection.probes=0"], "selection.probes=0 is below 1", "selection.probes=300"),
    "fisher": (["method=obs", "compensation.damping=0"], "damping=0 is not positive", "compensation.damping=1e-5"),
    "limit": (["dataset.limit=-3"], "dataset.limit=-3 is below 1", "dataset.limit=1000"),
    "validation": (["dataset.validation=2"], "dataset.validation=2 is not below 1", "dataset.validation=0.1"),
    "samples": (["calibration.samples=0"], "calibration.samples=0 is below 1", "calibration.samples=1000"),
}


QUICK = {"key", "option", "theta"}


@pytest.mark.parametrize(
    "words,wrong,hint",
    [pytest.param(*case, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, case in BAD.items()],
)
def test_bad_input_gets_a_line_or_two_and_nothing_is_written(ask, tmp_path, words, wrong, hint):
    answer = ask("run", [*words, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"])
    assert answer.code == 2 and not answer.silent
    assert 1 <= len(answer.err.strip().splitlines()) <= 2, answer
    assert re.search(wrong, answer.err) and hint in answer.err, answer
    assert list((tmp_path / "results").rglob("*.json")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edge counts", "no scores", "pattern"])
def test_parts_that_do_not_fit_are_known_at_a_dry_run(ask, name):
    words, wrong, hint = BAD[name]
    answer = ask("run", ["-m", *words, "seed=0,1", "--dry-run"])
    assert answer.code == 2 and answer.out == ""
    assert len(answer.err.strip().splitlines()) <= 2
    assert re.search(wrong, answer.err) and hint in answer.err, answer


def test_explicit_widths_are_typed_as_the_preset_says(command):
    assert command("method=magnitude", "allocation=explicit", "allocation.widths={fc1: 12}", *TINY).returncode == 0
    [record] = records(command)
    assert record["layers"][0]["kept"] == 12


@pytest.mark.slow
def test_what_only_the_work_shows_is_said_without_a_traceback(command):
    result = command("budget.compression=100000", "trainer=tiny", "track=none", "measure=none")
    assert result.returncode == 0
    assert "cannot be reached" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.slow
def test_the_last_line_says_when_there_is_no_network_to_rank(command):
    result = command("method=eigendamage", "model.widths=[]", *TINY)
    assert result.returncode == 0
    assert records(command)[0]["status"] == "skipped"
    assert result.stdout.strip().splitlines()[-1] == "1 skipped of 1: a result, but no network that could be ranked"


@pytest.mark.slow
def test_hydra_full_error_shows_the_traceback(command):
    assert "Traceback" in command("method=nope", HYDRA_FULL_ERROR="1").stderr


@pytest.mark.slow
def test_a_results_folder_that_cannot_be_written_is_named(command, tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    result = command("method=random", *TINY)
    assert result.returncode == 2
    assert f"paths.results={tmp_path}/results: {tmp_path}/results is not a folder" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_corrupt_record_is_set_aside_and_its_cell_runs_again(command):
    assert command("method=random", *TINY).returncode == 0
    [path] = command.results.glob("runs/*/*/*.json")
    path.write_text(path.read_text()[:100])
    result = command("method=random", *TINY)
    assert result.returncode == 0
    assert "0 done already, 1 to run" in result.stdout
    assert json.loads(path.read_text())["status"] == "done"


@pytest.mark.slow
def test_a_corrupt_dense_checkpoint_is_detected_and_trained_again(command):
    assert command("method=random", *TINY).returncode == 0
    [weights] = command.cache.glob("dense/*/dense*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 0xFF
    weights.write_bytes(content)
    result = command("method=magnitude", *TINY)
    assert result.returncode == 0, result.stderr
    assert "is damaged" in result.stderr
    first, second = records(command)
    assert first["metrics"]["dense"] == second["metrics"]["dense"]


@pytest.mark.slow
def test_help_lists_every_group_with_its_choices(command):
    result = command("--help", cold=True)
    assert result.returncode == 0
    for folder in (path for path in CONF.iterdir() if path.is_dir() and not path.name.startswith("_")):
        assert folder.name in result.stdout
        for choice in folder.glob("*.yaml"):
            assert choice.stem in result.stdout


@pytest.mark.slow
def test_two_workers_run_a_sweep_side_by_side(command):
    words = ["-m", "method=magnitude,random", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *TINY]
    result = command(*words)
    assert result.returncode == 0, result.stderr
    assert len(records(command)) == 2


@pytest.mark.usefixtures("accelerator")
def test_the_test_split_is_read_only_when_everything_is_decided(tmp_path, monkeypatch):
    """Its labels are behind a guard that only the last measurement lifts."""
    open_now = []

    class Guarded:
        def __init__(self, split):
            self._split = split

        def __len__(self):
            return len(self._split)

        def __getattr__(self, name):
            assert open_now, f"the test split's {name} was read before the end"
            return getattr(self._split, name)

    load, score = benchmarks.cells.cell.load, benchmarks.cells.cell.evaluate

    def guarded_load(*arguments):
        data = load(*arguments)
        data.test = Guarded(data.test)
        return data

    def scored(model, split):
        if isinstance(split, Guarded):
            open_now.append(True)
        return score(model, split)

    monkeypatch.setattr(benchmarks.cells.cell, "load", guarded_load)
    monkeypatch.setattr(benchmarks.cells.cell, "evaluate", scored)
    words = [*TINY, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    record = benchmarks.cells.cell.run(Composer(CONF).cell(["method=spectral", *words]))
    assert (record.status, record.reason) == ("done", None)
    assert len(open_now) == 3


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_replaces_dense_training(command, tmp_path):
    from benchmarks.models import build

    model = build({"_target_": "benchmarks.models.MLP", "widths": [150, 300, 150]}, (1, 8, 8), 10, 7)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    result = command("method=random", f"dense.checkpoint={tmp_path}/own.safetensors", *TINY)
    assert result.returncode == 0, result.stderr
    [record] = records(command)
    assert record["metrics"]["dense"]["accuracy"] < 0.4
    assert Store(command.results / "runs", command.results / "cells").load()[1] == []


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = f"'{sys.executable}' run.py --cfg job | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
