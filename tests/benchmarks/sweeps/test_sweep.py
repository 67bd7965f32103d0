"""Planning and launching: what a sweep of many cells costs before and after its work, and who does which cell."""

import copy
import json
import os
import pickle
import shlex
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import warm
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from benchmarks.records import store as records
from benchmarks.records.heading import heading
from benchmarks.records.keys import cell_key
from benchmarks.records.record import Record
from benchmarks.records.store import Store
from benchmarks.settings.home import ROOT as CONFIG
from benchmarks.sweeps import launching, sweep
from benchmarks.sweeps.composition import Composer, plain
from benchmarks.sweeps.request import Request
from benchmarks.sweeps.sweep import CONF, command_line, make_plan, missing_cells
from methods.errors import BadInput

ROOT = Path(__file__).parents[3]
TINY = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]


@pytest.fixture
def words(tmp_path):
    return [*TINY, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]


def record_of(config, status="done", **fields):
    reason = None if status == "done" else "because"
    return Record(**heading(config, cell_key(config)) | {"status": status, "reason": reason} | fields)


def write_all(plan, composer, status="done"):
    """A record for every cell, as if it had been run."""
    store, example = Store.of(plan.paths), composer.cell(plan.cells[0].overrides)
    for cell in plan.cells:
        config = copy.deepcopy(example)
        config["seed"], config["method"]["name"] = cell.seed, cell.method
        path = store.path_of(record := record_of(config, status, key=cell.key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.text())


WORDS = [
    ["method=random", "seed=3"],
    ["dataset=mnist", "seed=3", "trainer.train.epochs=7"],
    ["method=dpp", "compensation=none", "budget.speedup=2"],
    ["trainer.train.epochs=3", "trainer=tiny", "model.widths=[3,4]"],
    ["~dataset.levels", "++own.key=[1,2]", "+method.more=x"],
    ["selection=null", "method=magnitude_edge"],
    ["model.name=y", "model={name: z}"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_the_short_way_to_a_configuration_gives_what_hydra_gives(words):
    composer, theirs = Composer(CONF), ConfigLoaderImpl(create_config_search_path(str(CONF)))
    long_way = plain(theirs.load_configuration(CONFIG, words, RunMode.RUN))
    for _ in range(2):  # the second time from the frame that the first one left
        assert json.dumps(composer.cell(words)) == json.dumps(long_way)


FOR_LAUNCHERS = [
    *WORDS,
    ["+hydra.job.env_set.A=1", "hydra/launcher=joblib"],
    ["seed=1,2", "method=random,dpp"],
    ["calibration.samples=choice(7)"],
]


@pytest.mark.parametrize("words", FOR_LAUNCHERS, ids=" ".join)
def test_launchers_get_what_hydra_gives(words):
    """With Hydra's own section: what a job writes about itself, and how its launcher is set."""
    composer, theirs = Composer(CONF), ConfigLoaderImpl(create_config_search_path(str(CONF)))
    common = [word for word in words if "hydra" in word or "," in word or "choice(" in word]
    master = composer.master(common)
    expected = theirs.load_configuration(CONFIG, common, RunMode.MULTIRUN)
    assert OmegaConf.to_container(master) == OmegaConf.to_container(expected)
    for seed in ("++seed=1", "++seed=2"):  # the second from the frame that the first one left
        job = [*(word for word in words if word not in common), seed]
        ours, expected = (loader.load_sweep_config(master, job) for loader in (composer.loader, theirs))
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(expected)
        assert OmegaConf.is_struct(ours) and OmegaConf.is_struct(expected)
        assert OmegaConf.to_yaml(ours, resolve=True) == OmegaConf.to_yaml(expected, resolve=True)


@pytest.mark.parametrize("words", [["modle=mlp"], ["model.wdths=[3]"], ["model=lenet6"], ["modle/a=b"], ["budget=1"]])
def test_launchers_are_refused_what_hydra_refuses(words):
    found = []
    for loader in (Composer(CONF).loader, ConfigLoaderImpl(create_config_search_path(str(CONF)))):
        with pytest.raises(Exception) as caught:  # of whatever kind Hydra's is
            loader.load_configuration(CONFIG, words, RunMode.RUN)
        found.append((type(caught.value), str(caught.value), str(caught.value.__cause__)))
    assert found[0] == found[1]


def test_what_a_launcher_sends_with_each_job_does_not_grow(monkeypatch):
    composer = Composer(CONF)
    monkeypatch.setattr("benchmarks.sweeps.composition.KEPT_FRAMES", 2)
    before = len(pickle.dumps(composer.loader))
    for method in ("random", "magnitude", "dpp"):
        composer.loader.load_configuration(CONFIG, [f"method={method}"], RunMode.RUN)
    assert len(composer.loader.frames) == 2
    assert len(pickle.dumps(composer.loader)) <= before


@pytest.mark.parametrize("words", [["seed=choice(5)"], ["seed=range(5,6)"]])
@pytest.mark.parametrize("multirun", [True, False])
def test_a_sweep_of_one_value_is_one_cell(words, multirun, tmp_path):
    request = Request([*words, f"paths.results={tmp_path}", f"paths.cache={tmp_path}"], multirun=multirun)
    assert [cell.seed for cell in make_plan(Composer(CONF), request).cells] == [5]


def counting(function, calls):
    def counted(*arguments):
        calls.append(arguments[-1])
        return function(*arguments)

    return counted


def test_finished_cells_are_neither_composed_nor_read_more_than_needed(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "CONF", shutil.copytree(CONF, tmp_path / "conf"))
    composer = Composer(sweep.CONF)
    request = Request(["method=random,magnitude", "seed=range(0,100)", *words], multirun=True)
    plan = make_plan(composer, request)
    assert len(plan.cells) == len(missing_cells(plan)) == 200
    write_all(plan, composer)
    read, composed = [], []
    monkeypatch.setattr("benchmarks.records.store.read", counting(records.read, read))
    monkeypatch.setattr(Composer, "cell", counting(Composer.cell, composed))
    assert sweep.sweep(request) == 0
    assert "200 cells: 200 done already, 0 to run" in capsys.readouterr().out
    assert composed == []  # remembered from the first time
    assert len(read) <= 3 * len(plan.cells)  # what is missing, the conclusion, the boards


def test_failed_cells_are_missing_collapsed_ones_are_not(words):
    composer = Composer(CONF)
    for status, left in (("failed", 2), ("collapsed", 0), ("skipped", 0)):
        plan = make_plan(composer, Request(["method=random", "seed=0,1", *words], multirun=True))
        write_all(plan, composer, status)
        assert len(missing_cells(plan)) == left


def test_the_command_line_survives_a_shell(words):
    request = Request(["+note='two words'", "seed=0,1"], multirun=True)
    assert shlex.split(command_line(request)) == ["python", "run.py", "-m", "+note='two words'", "seed=0,1"]


# ----------------------------------------------------------------------------------------- one cell, several takers


@pytest.fixture
def slow_cell(monkeypatch):
    """``benchmarks.cells.cell.run`` replaced by something that takes a moment and counts."""
    ran = []

    def run(config, _holds):
        ran.append((config["seed"], threading.get_ident()))
        time.sleep(0.3)
        record = record_of(config, "failed" if config["seed"] == 13 else "done")
        Store.of(sweep.Paths.of(config["paths"])).write(record)
        return record

    monkeypatch.setattr("benchmarks.cells.cell.run", run)
    return ran


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_each_choice_of_files_is_composed_once_for_all(words, slow_cell, monkeypatch, tmp_path):
    composed, read = [], []
    monkeypatch.setattr(sweep, "CONF", shutil.copytree(CONF, tmp_path / "conf"))
    monkeypatch.setattr(ConfigRepository, "load_config", counting(ConfigRepository.load_config, read))
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counting(ConfigLoaderImpl.load_configuration, composed))
    assert sweep.sweep(Request(["method=random,magnitude", "seed=0,1", *words], multirun=True)) == 0
    assert len(slow_cell) == 4
    assert len(composed) == 3  # the sweep's own and one for each method
    assert len(read) == len(set(read)) > 10
    (tmp_path / "conf/method/random.yaml").write_text((CONF / "method/magnitude.yaml").read_text())
    assert Composer(sweep.CONF).cell(["method=random"])["method"]["name"] == "magnitude"  # files may change


class Pool:
    """Stands in for ``launching._round``: several workers, all of which die with the one that is at the culprit."""

    def __init__(self, composer, plan, workers, culprit):
        self.composer, self.plan, self.workers, self.culprit = composer, plan, workers, culprit
        self.lots, self.waits = [], []

    def __call__(self, _composer, _words, _sweep, cells, wait):
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
        (self.plan.paths.runs / launching.RUNNING / f"{cell.key}.{len(self.lots)}").write_text(holder)


@pytest.fixture
def pool(words, monkeypatch):
    """Fifteen cells, of which the second kills its worker."""

    def make(workers, kind=Pool):
        composer = Composer(CONF)
        plan = make_plan(composer, Request(["method=random", "seed=range(0,15)", *words], multirun=True))
        made = kind(composer, plan, workers, plan.cells[1])
        monkeypatch.setattr(launching, "_round", made)
        return made, lambda: launching.launch(composer, plan.words, plan.name, plan.cells, plan.paths)

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


def test_folders_of_configurations_that_no_key_knows_are_refused(words):
    for multirun in (False, True):
        with pytest.raises(BadInput, match="SECATEURS_CONF"):
            make_plan(Composer(CONF), Request(["hydra.searchpath=[file:///tmp]", *words], multirun=multirun))


def test_variables_that_hydra_copies_are_those_of_now(monkeypatch):
    for value in ("1", "2"):
        monkeypatch.setenv("COPIED", value)
        config = Composer(CONF).loader.load_configuration(CONFIG, ["hydra.job.env_copy=[COPIED]"], RunMode.RUN)
        assert config.hydra.job.env_set == {"COPIED": value}


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
    plan = make_plan(composer, Request(["method=spectral", "seed=0,1", *words], multirun=True))
    assert launching.launch(composer, plan.words, plan.name, plan.cells, plan.paths) == []
    other.join()
    assert sorted(seed for seed, _ in slow_cell) == [0, 1]
    assert missing_cells(plan) == []


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


@pytest.mark.slow
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
