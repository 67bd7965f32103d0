import json
import os
import subprocess
import sys

import pytest
import yaml
from sample_records import made
from wandb_files import runs
from wandb_service import BROKEN, WELL, Service

from benchmarks.cells.tracker import summary_of, tracking
from benchmarks.records.keys import cell_key
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.concluding import log_board
from benchmarks.sweeps.planning import Plan, make_plan
from benchmarks.sweeps.run_command import parse
from benchmarks.sweeps.words import expand
from benchmarks.track import main, sweep_configuration
from methods.errors import BadInput

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_wandb")]


@pytest.fixture
def store(tmp_path):
    return Store.of(Paths(tmp_path / "results"))


def whole(seed, **fields):
    config = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "method": {"name": "spectral"}}
    history = {"train": [{"epoch": e, "train_loss": 1 / e} for e in (1, 2, 3)], "finetune": [{"epoch": 1, "lr": 0.1}]}
    fields = {"history": history, "created": f"2026-01-0{seed + 1}T00:00:00+00:00"} | fields
    return made(seed, settings=config, **fields)


def pushed(tmp_path, *words):
    command = ["push", "--offline", "--results", str(tmp_path / "results"), "--dir", str(tmp_path / "w"), *words]
    assert main(command) == 0


def test_a_store_is_uploaded_once_in_order_under_its_cells_keys(store, tmp_path, capsys):
    theory = [{"theory": "lq_bound", "layer": "fc1", "predicted": 0.5, "measured": 0.4}]
    records = [whole(1, predictions=theory), whole(0, sweep="grid"), whole(2, status="failed", metrics={}, layers=[])]
    for record in records:
        store.write(record)
    (store.runs.parent / "boards").mkdir(exist_ok=True)
    (store.runs.parent / "boards/report.html").write_text("<html></html>")
    pushed(tmp_path)
    assert "3 cells uploaded, 0 were there already" in capsys.readouterr().out
    cells = [run for run in runs(tmp_path / "w") if not run["id"].startswith("board")]
    assert sorted(run["id"] for run in cells) == sorted(record.key for record in records)
    for run in cells:
        record = next(record for record in records if record.key == run["id"])
        wanted = {name: value for name, value in summary_of(record).items() if value is not None}
        assert {name: run["summary"][name] for name in wanted} == wanted
        assert run["config"]["seed"] == record.seed and run["group"] == (record.sweep or "")
        losses = [row["train/train_loss"] for row in run["history"] if "train/train_loss" in row]
        assert losses == [row["train_loss"] for row in record.history["train"]]
        tables = {name.partition("/")[0].partition(".")[0] for row in run["history"] for name in row}
        assert ("predictions" in tables) == bool(record.predictions)
    [board] = [run for run in runs(tmp_path / "w") if run["id"].startswith("board")]
    assert {"leaderboard.md", "leaderboard.csv", "report.html"} <= set(board["artifacts"])
    assert any(name.startswith("leaderboard") for row in board["history"] for name in row)

    pushed(tmp_path)
    assert "0 cells uploaded, 3 were there already" in capsys.readouterr().out
    assert len(runs(tmp_path / "w")) == 4
    store.write(whole(2))  # the failed cell has been done
    pushed(tmp_path)
    assert "1 cells uploaded, 2 were there already" in capsys.readouterr().out


def test_a_cell_that_is_tracked_while_it_runs_has_the_same_id(tmp_path):
    config = whole(0).config
    with tracking({"mode": "offline", "dir": str(tmp_path / "w")}, "n", None, config):
        pass
    assert [run["id"] for run in runs(tmp_path / "w")] == [cell_key(config)] == [whole(0).key]


def test_a_sweep_leaves_its_board_as_a_table_in_a_run_of_its_own(tmp_path):
    records = {record.key: record for record in (whole(0), whole(1))}
    plan = Plan("my_sweep", [], [], {}, Paths(tmp_path / "results"))
    section = {"mode": "offline", "dir": str(tmp_path / "w"), "tags": ["mine"]}
    log_board(plan, records, section)
    log_board(plan, {}, section)
    log_board(plan, records, section | {"mode": "disabled"})
    [run] = runs(tmp_path / "w")
    assert (run["name"], run["group"], run["tags"]) == ("my_sweep: board", "my_sweep", ["mine"])
    assert run["job"] == "board" and run["id"] not in records and run["exit"] == 0
    [file] = (tmp_path / "w").rglob("media/table/*.json")
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    assert [(row["method"], row["n"]) for row in rows] == [("dense", 2), ("spectral", 2)]
    assert rows[1]["pruned_accuracy_mean"] == pytest.approx(0.91)


def test_a_run_of_a_cell_says_what_it_is_and_what_was_asked_for(tmp_path):
    latency = [{"runtime": "eager", "batch": 1, "ratio": 1.5, "ratio_low": 1.4, "ratio_high": 1.6, "dense_ms": 3.0}]
    history = {"finetune": [{"epoch": e, "validation_accuracy": a} for e, a in ((1, 0.8), (2, 0.9), (3, 0.7))]}
    record = whole(0, latency=latency, history=history)
    with tracking({"mode": "offline", "dir": str(tmp_path / "w")}, "n", None, record.config) as tracker:
        tracker.summary(summary_of(record))
    [run] = runs(tmp_path / "w")
    assert run["job"] == "cell" and run["tags"] == ["digits", "mlp", "spectral"]
    wanted = {
        "budget/kind": "keep", "budget/value": 0.2, "best/validation_accuracy": 0.9, "latency_ratio/eager/1": 1.5,
        "latency_ratio_low/eager/1": 1.4, "latency_ratio_high/eager/1": 1.6, "latency_ms/dense/eager/1": 3.0,
    }  # fmt: skip
    assert {name: run["summary"].get(name) for name in wanted} == wanted


def test_a_record_whose_configuration_lacks_sections_is_uploaded_too(store, tmp_path):
    store.write(made(0, budget={}))
    pushed(tmp_path)
    assert "digits/mlp/spectral/no budget/0" in {run["name"] for run in runs(tmp_path / "w")}


def test_an_agent_of_a_sweep_keeps_the_id_that_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    with tracking({"mode": "offline", "dir": str(tmp_path / "w")}, "n", None, whole(0).config):
        pass
    assert [run["id"] for run in runs(tmp_path / "w")] == ["given"]


def test_without_a_service_nothing_is_lost_and_it_is_said(store, tmp_path, monkeypatch):
    store.write(whole(0))
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match=r"cannot be reached\nnothing is lost"):
        main(["push", "--results", str(tmp_path / "results"), "--dir", str(tmp_path / "w")])
    assert not (tmp_path / "w/pushed.json").exists()
    with pytest.raises(BadInput, match="no records in"):
        main(["push", "--results", str(tmp_path / "nothing")])


def test_a_service_that_recovers_gets_what_it_did_not_get_before(store, tmp_path):
    for seed in (0, 1):
        store.write(whole(seed))
    command = [sys.executable, "-m", "benchmarks.track", "push"]
    command += ["--results", str(tmp_path / "results"), "--dir", str(tmp_path / "w")]
    with Service() as service:

        def push():
            environment = {**os.environ, "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": service.url}
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

        service.mood = BROKEN
        refused = push()
        assert refused.returncode == 1 and "the same command goes on from here" in refused.stderr
        assert "Traceback" not in refused.stderr and not service.summaries
        service.mood = WELL
        assert "2 cells uploaded" in push().stdout
        marks = {whole(seed).key: json.loads(whole(seed).text())["checksum"] for seed in (0, 1)}
        assert {key: service.summaries[key]["record"] for key in marks} == marks
        assert "0 cells uploaded, 2 were there already" in push().stdout


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))][:3])
def test_a_sweep_configuration_has_the_cells_of_the_grid(name, tmp_path, capsys):
    assert main(["sweep", name, f"paths.cache={tmp_path}"]) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told == sweep_configuration(name, [f"paths.cache={tmp_path}"])
    assert told["method"] == "grid" and told["command"][-1] == "${args_no_hyphens}"
    words = [word for word in told["command"] if "=" in word]
    first = [f"{key}={value['values'][0]}" for key, value in told["parameters"].items()]
    composer = Composer(CONF)
    agent = composer.cell([*words, *first])  # what an agent would run is a cell
    master = composer.master([f"+experiment={name}"])
    grid = expand([f"{key}={value}" for key, value in master.hydra.sweeper.params.items()])
    size = 1
    for value in told["parameters"].values():
        size *= len(value["values"])
    assert size == len(grid)
    assert cell_key(agent) == make_plan(composer, parse([*words, *first])).cells[0].key
