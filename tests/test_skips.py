"""In continuous integration a skip that is not on the short list of tests/conftest.py is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def ended(folder, reason, workers=(), **environment):
    """The exit code of a session with one test that passes and one that is left out for ``reason``."""
    (folder / "test_one.py").write_text(
        f"import pytest\n\ndef test_it(): pass\n\ndef test_gap(): pytest.skip({reason!r})\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", *workers]
    done = subprocess.run(
        [*command, "--rootdir", folder, "-c", os.devnull, folder],
        env=clean | {"PYTHONPATH": str(TESTS)} | environment,
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("pdflatex is not installed", 1),
        ("no Chromium on this machine", 1),
        ("playwright is not installed", 1),
        ("Slurm is not installed; tests/slurm/one_node.sh install", 1),
        ("starting slurmd needs root", 1),
        ("onnxruntime is not installed", 1),
        ("edges are masked, not removed", 1),
        ("no GPU", 0),
        ("needs the images: SECATEURS_DATA=FOLDER", 0),
    ],
)
def test_only_reasons_on_the_list_pass(reason, code, tmp_path):
    found, said = ended(tmp_path, reason, CI="1")
    assert found == code, said
    assert (f"test_gap: {reason}" in said) == bool(code)


@pytest.mark.slow
def test_side_by_side_and_only_in_continuous_integration(tmp_path):
    assert ended(tmp_path, "pdflatex is not installed", ("-n", "2"), CI="1")[0] == 1
    assert ended(tmp_path, "pdflatex is not installed")[0] == 0
