"""In continuous integration a skip that is not on the short list of tests/conftest.py is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def ended(folder, reasons, workers=(), **environment):
    """The exit code of a session with one test that passes and one that is left out for each of the ``reasons``."""
    gaps = "\n".join(f"def test_gap{number}(): pytest.skip({reason!r})" for number, reason in enumerate(reasons))
    (folder / "test_one.py").write_text(f"import pytest\n\ndef test_it(): pass\n\n{gaps}\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", *workers]
    done = subprocess.run(
        [*command, "--rootdir", folder, "-c", os.devnull, folder],
        env=clean | {"PYTHONPATH": str(TESTS)} | environment,
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


REFUSED = [
    "pdflatex is not installed",
    "no Chromium on this machine",
    "playwright is not installed",
    "Slurm is not installed; tests/slurm/one_node.sh install",
    "starting slurmd needs root",
    "onnxruntime is not installed",
    "edges are masked, not removed",
]


@pytest.mark.slow
def test_only_reasons_on_the_list_pass(tmp_path):
    code, said = ended(tmp_path, ["no GPU", "needs the images: SECATEURS_DATA=FOLDER", *REFUSED], CI="1")
    assert code == 1, said
    assert said.count("not for a reason that is allowed") == len(REFUSED), "each is named, and no other"
    assert all(f": {reason}" in said.partition("left out, and not")[2] for reason in REFUSED)
    assert ended(tmp_path, ["no GPU", "needs the images: SECATEURS_DATA=FOLDER"], CI="1")[0] == 0


@pytest.mark.slow
def test_side_by_side_and_only_in_continuous_integration(tmp_path):
    assert ended(tmp_path, REFUSED[:1], ("-n", "2"), CI="1")[0] == 1
    assert ended(tmp_path, REFUSED[:1])[0] == 0
