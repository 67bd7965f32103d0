"""The command line is a Hydra application: it and one of ten lines on the same configurations say the same."""

import os
from pathlib import Path

import pytest
import warm

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
# The same words, and the sweeper of Hydra itself, since ours says what it does with the cells.
OTHER = """
import json
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf


class Noted(Callback):
    def on_job_start(self, config, **_):
        print("JOB", json.dumps(OmegaConf.to_container(config.hydra.overrides.task)))

    def on_run_start(self, config, **_):
        print("RUN STARTS")

    def on_multirun_start(self, config, **_):
        print("MULTIRUN STARTS")

    def on_multirun_end(self, config, **_):
        print("MULTIRUN ENDS")

    def on_job_end(self, config, job_return, **_):
        print("JOB ENDS", job_return.status.name)
"""


@pytest.fixture
def both(tmp_path):
    """Runs the same words through `run.py` and through the application of ten lines."""
    script = tmp_path / "ten_lines.py"
    script.write_text(TEN_LINES)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "noted.py").write_text(OTHER)

    def run(*words, **environment):
        found = []
        path = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
        for name in ("run.py", str(script)):
            env = {**os.environ, "SECATEURS_DATA": "", "COLUMNS": "200", "PYTHONPATH": path, **environment}
            found.append(warm.run(name, list(words), env, tmp_path))
        return found

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


@pytest.mark.parametrize("words", SHOWN.values(), ids=SHOWN)
def test_what_is_shown_is_what_ten_lines_show(both, words, tmp_path):
    ours, theirs = both(*words, MYSEED="4")
    assert theirs.returncode == ours.returncode == 0, theirs.stderr + ours.stderr
    one, other = ours.stdout, theirs.stdout.replace(f"{tmp_path}/ten_lines.py", "run.py")
    if "plugins" in words:
        one, other = timeless(one), timeless(other)
    assert one == other
    assert one.strip()


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
        [ours, _] = both(*words, "--dry-run")
        assert "1 cell of" in ours.stdout, ours.stderr
    [ours, _] = both("-m", f"hydra.searchpath=[file://{more}]", "dataset=glob(mi*)", "seed=1,2", "--dry-run")
    assert ours.returncode == 2 and "no value" in ours.stderr  # as in Hydra, glob() looks into the main folders


def test_completions_of_the_shell_are_those_of_ten_lines(both):
    for line in ("method=spec", "dataset=", "budget.k", "hydra/launcher="):
        environment = {"COMP_LINE": f"python run.py {line}", "COMP_POINT": str(len(f"python run.py {line}"))}
        ours, theirs = both("--shell-completion", "query=bash", **environment)
        assert ours.stdout == theirs.stdout and ours.stdout.strip()
