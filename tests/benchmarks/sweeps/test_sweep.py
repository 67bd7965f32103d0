"""Planning and launching: what a sweep of many cells costs before and after its work, and who does which cell."""

import copy
import json
import os
import shlex
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import warm

from benchmarks.records import store as records
from benchmarks.records.cell_fields import cell_fields
from benchmarks.records.keys import cell_key
from benchmarks.records.manifest import read_manifests
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import Paths
from benchmarks.sweeps import composition, launching
from benchmarks.sweeps.application import run
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.planning import make_plan, missing_cells
from benchmarks.sweeps.request import Request

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TINY = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]


@pytest.fixture
def words(tmp_path):
    return [*TINY, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]


def record_of(config, status="done", **fields):
    reason = None if status == "done" else "because"
    return Record(**cell_fields(config, cell_key(config)) | {"status": status, "reason": reason} | fields)


def write_all(plan, composer, status="done"):
    """A record for every cell, as if it had been run."""
    store, example = Store.of(plan.paths), composer.cell(plan.cells[0].overrides)
    for cell in plan.cells:
        config = copy.deepcopy(example)
        config["seed"], config["method"]["name"] = cell.seed, cell.method
        path = store.path_of(record := record_of(config, status, key=cell.key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.text())


@pytest.mark.parametrize("words", [["seed=choice(5)"], ["seed=range(5,6)"]])
@pytest.mark.parametrize("multirun", [True, False])
def test_a_sweep_of_one_value_is_one_cell(words, multirun, tmp_path):
    request = Request([*words, f"paths.results={tmp_path}", f"paths.cache={tmp_path}"], multirun=multirun)
    assert [cell.seed for cell in make_plan(Composer(CONF), request).cells] == [5]


def counting(function, calls):
    def counted(*arguments, **named):
        calls.append(arguments[-1])
        return function(*arguments, **named)

    return counted


def test_finished_cells_are_neither_composed_nor_read_more_than_needed(words, tmp_path, monkeypatch, capsys):
    composer = Composer(CONF)
    request = Request(["method=random,magnitude", "seed=range(0,100)", *words], multirun=True)
    plan = make_plan(composer, request)
    assert len(plan.cells) == len(missing_cells(plan)) == 200
    write_all(plan, composer)
    read, composed = [], []
    monkeypatch.setattr("benchmarks.records.store.read", counting(records.read, read))
    monkeypatch.setattr(Composer, "cell", counting(Composer.cell, composed))
    monkeypatch.setitem(sys.modules, "benchmarks.cells.parts", None)  # with which methods and torch are imported
    assert run(request).code == 0
    assert "200 cells: 200 done already, 0 to run" in capsys.readouterr().out
    assert composed == []  # remembered from the first time
    assert len(read) <= 2 * len(plan.cells)  # what is missing, and the boards


def test_failed_cells_are_missing_collapsed_ones_are_not(words):
    composer = Composer(CONF)
    for status, left in (("failed", 2), ("collapsed", 0), ("skipped", 0)):
        plan = make_plan(composer, Request(["method=random", "seed=0,1", *words], multirun=True))
        write_all(plan, composer, status)
        assert len(missing_cells(plan)) == left


def test_the_command_of_a_sweep_survives_a_shell(words, slow_cell, tmp_path):
    given = ["hydra.job.name='two words'", "seed=0,1", *words]
    run(Request(given, multirun=True))
    [manifest] = read_manifests(tmp_path / "results/runs")[0]
    assert shlex.split(manifest.command) == ["python", "run.py", "-m", *given]


# ----------------------------------------------------------------------------------------- one cell, several takers


@pytest.fixture
def slow_cell(monkeypatch):
    """``benchmarks.cells.cell.run`` replaced by something that takes a moment and counts."""
    ran = []

    def run(config, _holds):
        ran.append((config["seed"], threading.get_ident()))
        time.sleep(0.3)
        record = record_of(config, "failed" if config["seed"] == 13 else "done")
        Store.of(Paths.of(config["paths"])).write(record)
        return record

    monkeypatch.setattr("benchmarks.cells.cell.run", run)
    return ran


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_each_choice_of_files_is_composed_once_for_a_plan(words, monkeypatch, tmp_path):
    composed = []
    monkeypatch.setattr(composition, "compose", counting(composition.compose, composed))
    folder = shutil.copytree(CONF, tmp_path / "conf")
    request = Request(["method=random,magnitude", "seed=0,1", *words], multirun=True)
    assert len(make_plan(Composer(folder), request).cells) == 4
    assert len(composed) == 3  # the sweep's own and one for each method
    (folder / "method/random.yaml").write_text((CONF / "method/magnitude.yaml").read_text())
    assert Composer(folder).cell(["method=random"])["method"]["name"] == "magnitude"  # files may change
    assert len(make_plan(Composer(folder), request).cells) == 2


class Pool:
    """Stands in for ``Rounds``: several workers, all of which die with the one that is at the culprit."""

    def __init__(self, composer, plan, workers, culprit):
        self.composer, self.plan, self.workers, self.culprit = composer, plan, workers, culprit
        self.lots, self.waits = [], []

    def __call__(self, cells, wait):
        self.lots.append(len(cells))
        self.waits.append(wait)
        if self.culprit in cells:
            for cell in cells[: self.workers]:
                self.lease(cell)
            return "the launcher stopped", {}
        for cell in cells:
            Store.of(self.plan.paths).write(record_of(self.composer.cell(cell.overrides)))
        return None, {}

    def lease(self, cell, holder=""):
        path = self.plan.paths.runs / launching.RUNNING / f"{cell.key}.{len(self.lots)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(holder)


@pytest.fixture
def pool(words):
    """Fifteen cells, of which the second kills its worker."""

    def make(workers, kind=Pool):
        composer = Composer(CONF)
        plan = make_plan(composer, Request(["method=random", "seed=range(0,15)", *words], multirun=True))
        made = kind(composer, plan, workers, plan.cells[1])
        return made, lambda: launching.launch(made, plan.cells, plan.paths)

    return make


@pytest.mark.parametrize(("workers", "lots"), [(2, [15, 13, 1, 1]), (12, [15, 3, *[1] * 12])])
def test_what_is_beside_a_worker_that_dies_is_not_given_up(pool, workers, lots):
    made, launch = pool(workers)
    [fault] = launch()
    assert fault.startswith(" ".join(made.culprit.overrides)) and "its worker died 2 times" in fault
    assert [cell.key for cell in missing_cells(made.plan)] == [made.culprit.key]
    assert made.lots == lots and not any(made.waits)


def test_a_launcher_that_does_not_start_for_one_cell_starts_for_the_others(pool):
    class Choosy(Pool):
        def lease(self, cell, holder=""):
            if len(self.lots) == 1:
                super().lease(cell, holder)

    made, launch = pool(2, Choosy)
    assert launch() == ["the launcher stopped"]
    assert [cell.key for cell in missing_cells(made.plan)] == [made.culprit.key]


def test_what_other_processes_go_on_with_is_waited_for_and_not_blamed(pool):
    """As jobs of Slurm do when another one has failed."""

    class Cluster(Pool):
        def lease(self, cell, holder=""):
            alive = {"host": socket.gethostname(), "pid": os.getpid(), "time": 0}
            super().lease(cell, holder if cell == self.culprit else json.dumps(alive))

    made, launch = pool(5, Cluster)
    [fault] = launch()
    assert fault.startswith(" ".join(made.culprit.overrides))
    assert [cell.key for cell in missing_cells(made.plan)] == [made.culprit.key]
    assert made.lots == [15, 10, 1, 4] and made.waits == [False, False, False, True]


@pytest.mark.parametrize("seed", [0, 13], ids=["done", "failed"])
def test_a_cell_that_several_want_is_done_once(words, slow_cell, seed):
    config = Composer(CONF).cell([f"seed={seed}", *words])
    results = []
    in_threads(6, lambda: results.append(launching.run_leased(config)))
    assert len(slow_cell) == 1
    assert len(results) == 6 and all(record.key == cell_key(config) for record in results)
    assert not list(Path(config["paths"]["results"]).glob(f"runs/{launching.RUNNING}/{cell_key(config)}*"))


def test_a_cell_that_another_is_at_is_left_for_later(words, slow_cell):
    composer = Composer(CONF)
    config = composer.cell(["seed=0", *words])
    other = threading.Thread(target=launching.run_leased, args=(config,))
    other.start()
    while not slow_cell:
        time.sleep(0.01)
    assert launching.run_leased(config | {"_wait": False}) is None
    outcome = run(Request(["method=spectral", "seed=0,1", *words], multirun=True))
    other.join()
    assert outcome.faults == [] and outcome.code == 0
    assert sorted(seed for seed, _ in slow_cell) == [0, 1]


def test_what_a_killed_writer_left_is_swept_up(words, slow_cell, tmp_path):
    config = Composer(CONF).cell(["seed=0", *words])
    left = tmp_path / f"results/runs/digits/mlp/.{cell_key(config)}.json.0a0b0c0d.tmp"
    other = left.with_name(".0123456789abcdef.json.0a0b0c0d.tmp")
    left.parent.mkdir(parents=True)
    left.touch()
    other.touch()
    launching.run_leased(config)
    assert not left.exists() and other.exists()


def test_workers_of_one_machine_share_its_cores():
    """Joblib's own workers limit their threads; torch must see that limit."""
    from joblib import Parallel, cpu_count, delayed

    def threads():
        import torch

        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        expected = max(1, cpu_count() // 2)
        for seen, given in Parallel(n_jobs=2, backend="loky")(delayed(threads)() for _ in range(2)):
            assert (seen, int(given)) == (expected, expected)


def test_a_cell_on_two_devices_is_the_cell_on_one(tmp_path):
    """Two processes on the CPU (gloo), the same global batch: one record, the same figures within rounding."""
    found = {}
    for devices, extra in ((1, []), (2, ["trainer.train.strategy=ddp", "trainer.finetune.strategy=ddp"])):
        folder = tmp_path / str(devices)
        both = [
            f"trainer.{part}.{key}"
            for part in ("train", "finetune")
            for key in (f"devices={devices}", "accelerator=cpu")
        ]
        folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
        words = ["method=magnitude", "seed=0", *TINY, *both, *extra, *folders]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SECATEURS_DATA": ""}
        result = warm.run("run.py", words, env, tmp_path, timeout=300)  # starts its second process by the same command
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("✓") == 1  # not once per device
        [path] = folder.glob("results/runs/*/*/*.json")
        found[devices] = records.read(path)
    one, two = found[1], found[2]
    assert one.key == two.key
    for stage in ("dense", "pruned", "tuned"):
        first, second = getattr(one.metrics, stage), getattr(two.metrics, stage)
        assert first.loss == pytest.approx(second.loss, rel=1e-3)
        assert first.parameters == second.parameters


def test_the_time_left_counts_the_cell_that_has_just_ended(monkeypatch):
    monkeypatch.setattr(launching.time, "time", lambda: 1600.0)
    assert launching.progress((1, 4, 1000.0)) == ("[1/4] ", ", about 30 min left")
    assert launching.progress((4, 4, 1000.0)) == ("[4/4] ", "") and launching.progress(None) == ("", "")
