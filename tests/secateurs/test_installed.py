"""The built wheel in a fresh environment, outside of the clone: the command ``secateurs``, and ``import secateurs``."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import secateurs
from benchmarks.storage.entry_point import command_names
from secateurs.console_script import renamed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARTS = ("methods", "benchmarks", "secateurs", "hydra_plugins", "conf", "results/published")
COMMANDS = ", ".join(command_names())
TINY = ["trainer=tiny", "measure=none", "track=none", "dataset.limit=200", "dataset.limit_test=100"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment with the wheel; the packages it depends on are borrowed from this one, nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "run.py"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True, cwd=folder)
    [wheel] = folder.glob("secateurs-*.whl")
    fresh = folder / "fresh"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fresh], check=True)
    python = fresh / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True, cwd=folder)
    [packages] = fresh.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    return fresh / "bin"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A working directory with a user's own folders, one called as a package of ours."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "methods").mkdir()
    (folder / "methods/__init__.py").write_text("raise RuntimeError('the methods of somebody else')\n")
    (folder / "my_network.py").write_text(
        "from torch import nn\n\n"
        "def small(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, classes))\n"
    )
    return folder


def run(environment, outside, *words, program="secateurs"):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SECATEURS", "WANDB"))}
    done = subprocess.run(
        [environment / program, *words],
        cwd=outside,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_cell_runs_and_its_record_carries_the_version(environment, outside):
    code, said, wrong = run(environment, outside, "method=random", "dataset=digits", *TINY)
    assert code == 0, said + wrong
    [path] = outside.glob("results/runs/digits/*/*.json")
    mark = json.loads(path.read_text())["fingerprint"]
    assert mark["secateurs"] == secateurs.__version__ and mark["commit"] is None
    code, said, wrong = run(environment, outside, "method=random", "dataset=digits", *TINY)
    assert code == 0 and "1 done already, 0 to run" in said
    code, said, wrong = run(environment, outside, "leaderboard")
    assert code == 0 and (outside / "results/boards/leaderboard.md").is_file(), wrong
    code, said, wrong = run(environment, outside, "report", "--no-figures")
    assert code == 0 and list(outside.glob("results/boards/*.html")), said + wrong
    code, said, wrong = run(environment, outside, "reproduce", "--help")
    assert code == 0, wrong


def test_a_sweep_with_workers_and_a_network_of_ones_own(environment, outside):
    words = ["method=random,magnitude", "model._target_=my_network.small", "hydra/launcher=joblib", *TINY]
    code, said, wrong = run(environment, outside, "-m", *words, "hydra.launcher.n_jobs=2")
    assert code == 0, said + wrong
    assert len(list(outside.glob("results/runs/digits/*/*.json"))) >= 2


@pytest.mark.parametrize(
    "words,code,message",
    [
        (["--help"], 0, "secateurs -m method=spectral,dpp"),
        (["method=spectrall"], 2, "unknown method 'spectrall'; choose from"),
        (["seed=0,1"], 2, "type secateurs -m seed=0,1"),
        (["leaderbord"], 2, f"'leaderbord' is no command; commands are: {COMMANDS}; see"),
        (["leaderboard", "--help"], 0, "usage: secateurs leaderboard"),
        (["leaderboard", "--results", "nothing"], 2, "secateurs -m method=spectral,dpp"),
        (["conformance", "method=spectrall"], 2, "unknown method 'spectrall'"),
    ],
)
def test_messages_name_the_command_that_was_typed(environment, outside, words, code, message):
    found, said, wrong = run(environment, outside, *words)
    assert found == code and message in said + wrong, said + wrong
    assert "run.py" not in said + wrong and "python -m benchmarks" not in said + wrong
    assert "Traceback" not in wrong


def test_published_numbers_and_the_door_are_there(environment, outside):
    code = (
        "import secateurs; from benchmarks.reproductions.published import load; "
        "print(len(load()), secateurs.BadInput.__module__)"
    )
    found, said, wrong = run(environment, outside, "-c", code, program="python")
    count, module = said.split()
    assert found == 0 and int(count) > 100 and module == "methods.errors", wrong


def test_names_of_commands():
    found = command_names()
    assert found == sorted(set(found)) and {"conformance", "export", "leaderboard", "report", "reproduce"} <= set(found)
    assert "__init__" not in found and "sweeps" not in found  # no module of which nothing can be run
    assert renamed("type python run.py -m seed=0,1\nor python -m benchmarks.status x") == (
        "type secateurs -m seed=0,1\nor secateurs status x"
    )
    assert renamed("python -m pip install onnx") == "python -m pip install onnx"


@pytest.mark.parametrize(
    "module,message",
    [
        ("benchmarks.sweeps.sweep", f"benchmarks.sweeps.sweep is no command; Commands are: {COMMANDS}\n"),
        ("benchmarks.leaderbord", "did you mean python -m benchmarks.leaderboard?"),
        ("benchmarks", f"python -m benchmarks.X, where X is one of {COMMANDS}; see"),
    ],
)
def test_what_is_no_command_says_so(module, message):
    done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
