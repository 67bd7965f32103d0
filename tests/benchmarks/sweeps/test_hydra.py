"""The command line is a Hydra application: it and one of ten lines on the same configurations say the same."""

import json
import os
import re
from pathlib import Path

import pytest
import warm
from omegaconf import OmegaConf

from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import VERSION_BASE

ROOT = Path(__file__).parents[3]
TINY = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]
TEN_LINES = f"""
import json, sys
import hydra
from omegaconf import OmegaConf


@hydra.main(config_path={str(CONF)!r}, config_name="config", version_base={VERSION_BASE!r})
def application(config):
    print(json.dumps(OmegaConf.to_container(config, resolve=True), sort_keys=True))


application()
"""
NOTED = """
import logging

from hydra.experimental.callback import Callback


class Noted(Callback):
    def on_multirun_start(self, config, **_):
        print("MULTIRUN STARTS")

    def on_job_start(self, config, **_):
        logging.getLogger("noted").info("a job starts")
        logging.getLogger("noted.deep").debug("its details")
        logging.getLogger("other").debug("those of others")
        print("JOB", *(word for word in config.hydra.overrides.task if word[:5] not in ("_swee", "_wait")))

    def on_job_end(self, config, job_return, **_):
        print("JOB ENDS", job_return.status.name)

    def on_multirun_end(self, config, **_):
        print("MULTIRUN ENDS")
"""
RANDOM_SEARCH = """
import random

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class RandomSearch(Sweeper):
    def __init__(self, trials, batch):
        self.trials, self.batch, self.best = trials, batch, None

    def setup(self, *, hydra_context, task_function, config):
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        draw = random.Random(0)
        for start in range(0, self.trials, self.batch):
            jobs = [[*arguments, f"budget.keep={draw.uniform(0.3, 0.9):.2f}"] for _ in range(self.batch)]
            for job, result in zip(jobs, self.launcher.launch(jobs, initial_job_idx=start)):
                print("TRIAL", job[-1], result.return_value)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="random_search",
    node={"_target_": "hydra_plugins.random_search.sweeper.RandomSearch", "trials": 4, "batch": 2},
)
"""


@pytest.fixture
def both(tmp_path):
    """Runs the same words through the command line and through the application of ten lines."""
    site = tmp_path / "site"
    (site / "hydra_plugins/random_search").mkdir(parents=True)
    (site / "noted.py").write_text(NOTED)
    (site / "hydra_plugins/random_search/__init__.py").touch()
    (site / "hydra_plugins/random_search/sweeper.py").write_text(RANDOM_SEARCH)
    paths = f"import sys\nsys.path.insert(0, {str(site)!r})\n"
    (tmp_path / "ten_lines.py").write_text(paths + TEN_LINES)
    (tmp_path / "ours.py").write_text(
        f"{paths}from benchmarks.sweeps.run_command import main\nsys.exit(main(sys.argv[1:]))\n"
    )

    def run(*words, theirs=(), apart=None, **environment):
        """``apart`` is a variable of the environment that names a folder, another one for each of the two.

        With ``theirs=None`` the ten lines are not run.
        """
        env = {**os.environ, "SECATEURS_DATA": "", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment}
        first, second = ({apart: str(tmp_path / f"{apart}{place}")} if apart else {} for place in (0, 1))
        ours = warm.run(str(tmp_path / "ours.py"), list(words), env | first, tmp_path)
        return ours, theirs is not None and warm.run(
            str(tmp_path / "ten_lines.py"), [*words, *theirs], env | second, tmp_path
        )

    return run


SHOWN = {
    "job": ["--cfg", "job"],
    "hydra": ["--cfg", "hydra", "method=dpp"],
    "all, resolved": ["--cfg", "all", "--resolve", "method=dpp", "seed=3"],
    "package": ["--cfg", "job", "--package", "budget", "budget.keep=0.5"],
    "short forms": ["-c", "hydra", "-p", "hydra.launcher"],
    "launcher": ["--cfg", "hydra", "-p", "hydra.launcher", "hydra/launcher=joblib"],
    "version": ["--version"],
    "help": ["--help"],
    "help of Hydra": ["--hydra-help"],
    "info on everything": ["--info", "all"],
    "info, unasked what": ["--info"],
    "info on places": ["--info", "searchpath"],
    "info on defaults": ["--info", "defaults", "+experiment=digits"],
    "info on the tree": ["--info", "defaults-tree"],
    "info on the configuration": ["--info", "config"],
    "info on plug-ins": ["--info", "plugins"],
    "deleted": ["--cfg", "job", "~measure", "~dataset.levels"],
    "added": ["--cfg", "job", "+own.key=[1,2]", "++seed=7", "+note='two words'"],
    "mapping": ["--cfg", "job", "budget={keep: 0.5}"],
    "environment": ["--cfg", "job", "--resolve", "seed=${oc.env:MYSEED}"],
}


def timeless(text):
    """What is shown of plug-ins, without the seconds that importing them took."""
    return text.partition("Profiling")[0]


@pytest.mark.slow
@pytest.mark.parametrize("words", SHOWN.values(), ids=SHOWN)
def test_what_is_shown_is_what_ten_lines_show(both, words):
    ours, theirs = both(*words, MYSEED="4")
    assert theirs.returncode == ours.returncode == 0, theirs.stderr + ours.stderr
    one, other = ours.stdout.replace("ours.py", "ten_lines.py"), theirs.stdout
    if words in (["--info", "plugins"], ["--info", "all"], ["--info"]):
        one, other = timeless(one), timeless(other)
    assert one == other
    assert one.strip()


FORMAT = "hydra.job_logging.formatters.simple.format='LOG %(name)s %(levelname)s %(message)s'"
LOGGED = {  # words, and what of the callback's three lines is on the screen and in the job's own file
    "not asked for": ([], [], None),
    "default": (["hydra/job_logging=default", FORMAT], ["noted INFO"], ["noted INFO"]),
    "on the screen": (["hydra/job_logging=stdout", FORMAT], ["noted INFO"], None),
    "disabled": (["hydra/job_logging=disabled"], [], None),
    "verbose": (
        ["hydra/job_logging=default", FORMAT, "hydra.verbose=true"],
        ["noted INFO", "noted.deep DEBUG", "other DEBUG"],
        ["noted INFO", "noted.deep DEBUG", "other DEBUG"],
    ),
    "verbose of one logger": (
        ["hydra/job_logging=default", FORMAT, "hydra.verbose=[noted]"],
        ["noted INFO", "noted.deep DEBUG"],
        ["noted INFO", "noted.deep DEBUG"],
    ),
    "another name": (["hydra/job_logging=default", FORMAT, "hydra.job.name=mine"], ["noted INFO"], ["noted INFO"]),
}


def logged(text):
    """The lines of the callback's loggers, without their messages."""
    return re.findall(r"^LOG ((?:noted|noted\.deep|other) \w+)", text, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("words,screen,file", LOGGED.values(), ids=LOGGED)
def test_a_job_logs_as_one_of_ten_lines(both, words, screen, file, tmp_path):
    called = "+hydra.callbacks.noted._target_=noted.Noted"
    name = "mine.log" if "hydra.job.name=mine" in words else "secateurs.log"
    found = []
    for place, result in enumerate(
        both("dry_run=true", called, *words, "hydra.run.dir=${oc.env:LOGS}", apart="LOGS"),
    ):
        assert result.returncode == 0, result.stderr
        written = tmp_path / f"LOGS{place}" / name
        found.append((logged(result.stdout), logged(written.read_text()) if written.exists() else None))
    assert found == [(screen, file)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_the_jobs_of_a_sweep_log_into_files_of_their_own(both, launcher, tmp_path):
    """Where ``hydra.sweep.subdir`` says so, as in ten lines."""
    folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache", f"hydra/launcher={launcher}"]
    words = ["hydra/job_logging=default", FORMAT, "+hydra.callbacks.noted._target_=noted.Noted"]
    words += ["hydra.sweep.dir=${oc.env:LOGS}", "hydra.sweep.subdir=seed${seed}"]
    results = both("-m", "seed=1,2", *TINY, *folders, *words, theirs=["hydra/sweeper=basic"], apart="LOGS")
    for place, result in enumerate(results):
        assert result.returncode == 0, result.stderr
        for seed in (1, 2):
            text = (tmp_path / f"LOGS{place}/seed{seed}/secateurs.log").read_text()
            assert logged(text) == ["noted INFO"]
    ours, theirs = (OmegaConf.load(tmp_path / f"LOGS{place}/multirun.yaml") for place in (0, 1))
    assert ours.pop("hydra").job == theirs.pop("hydra").job and ours == theirs


@pytest.mark.slow
def test_other_folders_and_roots_are_those_of_ten_lines(both, tmp_path):
    more = tmp_path / "more"
    (more / "dataset").mkdir(parents=True)
    (more / "dataset" / "mine.yaml").write_text("defaults: [digits]\nlimit: 77\n")
    (more / "root.yaml").write_text("defaults: [config, _self_]\nseed: 42\n")
    for words in (
        ["--config-dir", str(more), "dataset=mine", "trainer=tiny"],
        ["--config-dir", str(more), "--config-name", "root"],
        [f"hydra.searchpath=[file://{more}]", "dataset=mine", "trainer=tiny"],
    ):
        ours, theirs = both("--cfg", "job", *words)
        assert ours.returncode == theirs.returncode == 0, ours.stderr
        assert ours.stdout == theirs.stdout and ("limit: 77" in ours.stdout or "seed: 42" in ours.stdout)
        [ours, _] = both(*words, "--dry-run", theirs=None)
        assert "1 cell of" in ours.stdout, ours.stderr
    [ours, _] = both(
        "-m", f"hydra.searchpath=[file://{more}]", "dataset=glob(mi*)", "seed=1,2", "--dry-run", theirs=None
    )
    assert ours.returncode == 2 and "no value" in ours.stderr  # as in Hydra, glob() looks into the main folders


@pytest.mark.slow
def test_completions_of_the_shell_are_those_of_ten_lines(both):
    for words in (["install=bash"], ["uninstall=bash"], ["install=zsh"], ["install=fish"]):
        ours, theirs = both("--shell-completion", *words)
        assert ours.stdout.replace("ours.py", "ten_lines.py") == theirs.stdout and ours.stdout.strip()
    for line in ("method=spec", "dataset=", "budget.k", "hydra/launcher="):
        environment = {"COMP_LINE": f"python run.py {line}", "COMP_POINT": str(len(f"python run.py {line}"))}
        ours, theirs = both("--shell-completion", "query=bash", **environment)
        assert ours.stdout == theirs.stdout and ours.stdout.strip()


SWEEPS = {
    "list": ["seed=1,2", "method=random,magnitude"],
    "glob": ["method=glob(magnitude*)"],
    "range and choice": ["seed=range(1,4,2)", "method=choice(random,magnitude)"],
    "sort": ["seed=sort(3,1,reverse=true)"],
    "tag": ["seed=tag(a,b,choice(1,2))"],
    "shuffle": ["seed=shuffle(7,7)"],
    "lists": ["model.widths=[3,4],[5,6]"],
    "mappings": ["budget={keep:0.5},{keep:0.4}"],
    "quoted": ["trainer.train.schedule='cosine',\"constant\""],
    "deleted": ["~dataset.levels", "seed=1,2"],
    "environment": ["seed=${oc.env:MYSEED},2"],
    "mode": ["hydra.mode=MULTIRUN", "seed=1,2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", SWEEPS.values(), ids=SWEEPS)
def test_a_sweep_has_the_jobs_that_ten_lines_have(both, words, tmp_path):
    """Callbacks see the same jobs in the same order; what two jobs share is one cell, and runs once."""
    mode = [] if "hydra.mode=MULTIRUN" in words else ["-m"]
    folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    called = ["+hydra.callbacks.noted._target_=noted.Noted"]
    found = both(*mode, *words, *TINY, *folders, *called, theirs=["hydra/sweeper=basic"], MYSEED="4")
    ours, theirs = (re.findall(r"^(?:JOB|MULTIRUN) .*", result.stdout, re.M) for result in found)
    assert [line for line in ours if line.startswith("JOB ")], found[0].stderr
    once = list(dict.fromkeys(line for line in theirs if not line.startswith("JOB ENDS")))
    assert [line for line in ours if not line.startswith("JOB ENDS")] == once
    assert len([line for line in ours if line.startswith("JOB ENDS")]) == len(once) - 2


@pytest.mark.slow
def test_a_sweeper_of_ones_own_is_told_objectives_and_what_it_tried_is_concluded(both, tmp_path):
    folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    words = ["-m", "hydra/sweeper=random_search", "method=random", *TINY, *folders]
    first, _ = both(*words, theirs=None)
    assert first.returncode == 0, first.stderr
    trials = re.findall(r"^TRIAL budget.keep=(\S+) (\S+)$", first.stdout, re.M)
    assert len(trials) == 4 and all(0 <= float(value) <= 1 for _, value in trials)
    assert "boards:" in first.stdout and first.stdout.count("✓") == 4
    for keep, value in trials:
        [record] = [
            record
            for path in tmp_path.glob("results/runs/digits/*/*.json")
            if (record := json.loads(path.read_text()))["config"]["budget"]["keep"] == float(keep)
        ]
        assert float(value) == max(row["validation_accuracy"] for row in record["history"]["finetune"])
    [manifest] = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/.sweeps/search-*.json")]
    assert len(manifest["cells"]) == 4
    again, _ = both(*words, "objective=[validation_accuracy,macs]", theirs=None)
    assert "✓" not in again.stdout.partition("boards")[0]  # the same cells, done already
    several = re.findall(r"^TRIAL budget.keep=\S+ \((\S+), (\S+)\)$", again.stdout, re.M)
    assert len(several) == 4 and [value for value, _ in several] == [value for _, value in trials]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "tuned.accuracy", "test_loss", "nonsense"])
def test_no_objective_is_of_the_test_split(both, name, tmp_path):
    for mode in ([], ["-m"]):
        words = [*mode, f"objective={name}", f"paths.results={tmp_path}/r", f"paths.cache={tmp_path}/c"]
        ours, _ = both(*words, theirs=None)
        assert ours.returncode == 2 and "validation_accuracy" in ours.stderr
    assert not (tmp_path / "r").exists()
