"""Sweeps through a real Slurm: jobs that are killed, and jobs that are requeued in the midst of training."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("one_node.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
LAUNCHER = [
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.partition=debug",
    "hydra.launcher.timeout_min=10",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.array_parallelism=2",
]
TINY = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which Slurm's commands reach a cluster of this machine alone."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("starting slurmd needs root")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'secateurs[slurm]'")
    if not all(map(shutil.which, PROGRAMS)):
        if not (os.environ.get("CI") and shutil.which("apt-get")):
            pytest.skip(f"Slurm is not installed; {SCRIPT.relative_to(ROOT)} install")
        installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
        if installed.returncode:
            pytest.skip(f"Slurm cannot be installed: {installed.stderr.strip()[-300:]}")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False, timeout=120)
    try:
        assert started.returncode == 0, started.stderr
        yield {
            **os.environ,
            "SLURM_CONF": f"{folder}/slurm.conf",
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "SECATEURS_DATA": "",
            "COLUMNS": "200",
        }
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False)


@pytest.fixture
def sweep(cluster, tmp_path):
    """Starts a sweep on the cluster, and ends it if the test does not."""
    started = []

    def start(*words):
        folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
        started.append(warm.start("run.py", ["-m", *words, *TINY, *LAUNCHER, *folders], cluster, tmp_path))
        return started[-1]

    yield start
    for command in started:
        command.kill()


def jobs(cluster, state="RUNNING"):
    command = ["squeue", "-h", "-r", "-t", state, "-o", "%i"]
    return subprocess.run(command, env=cluster, capture_output=True, text=True, check=True).stdout.split()


def wait_for(what, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


def records(folder):
    return [json.loads(path.read_text()) for path in folder.glob("results/runs/*/*/*.json")]


def epochs(tmp_path):
    """How long each epoch took that is in the checkpoint of a dense training: what no second run has again."""
    for path in tmp_path.glob("cache/dense/*/training.json"):
        try:
            return [f"{row['seconds']:.7g}" for row in json.loads(path.read_text())["history"]["epochs"]]
        except (OSError, ValueError):
            return []
    return []


def test_a_sweep_of_array_jobs(sweep, tmp_path):
    process = sweep("method=random,magnitude", "seed=0")
    result = process.wait(timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(record["method"] for record in records(tmp_path)) == ["magnitude", "random"]
    assert {record["status"] for record in records(tmp_path)} == {"done"}


def test_a_job_that_is_killed_is_submitted_again(sweep, cluster, tmp_path):
    process = sweep("method=random,magnitude", "seed=1", "trainer.train.epochs=150", "budget.keep=0.9")
    wait_for(lambda: len(epochs(tmp_path)) >= 3)
    first = sorted(jobs(cluster))[0]
    subprocess.run(["scancel", "--signal=KILL", "--full", first], env=cluster, check=True)
    result = process.wait(timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(records(tmp_path)) == 2 and {record["status"] for record in records(tmp_path)} == {"done"}


def test_a_job_that_is_requeued_goes_on_with_its_training(sweep, cluster, tmp_path):
    process = sweep("method=random", "seed=2", "trainer.train.epochs=150", "budget.keep=0.9")
    wait_for(lambda: len(epochs(tmp_path)) >= 15)
    [job] = jobs(cluster)
    before = epochs(tmp_path)
    subprocess.run(["scontrol", "requeue", job], env=cluster, check=True)
    result = process.wait(timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    [record] = records(tmp_path)
    assert record["status"] == "done"
    assert len(record["history"]["train"]) == 150
    assert [f"{row['seconds']:.7g}" for row in record["history"]["train"]][: len(before)] == before
