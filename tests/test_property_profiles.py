"""A property test tries the same examples in every run, whatever else is imported, unless asked to explore."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROPERTY = """
from hypothesis import given, settings, strategies as st
from ours import SIZES

@settings(max_examples=200)
@given(st.floats(), st.integers(), st.text())
def test_it(number, whole, text): print("drawn", repr((number, whole, text)))
"""


def examples(folder, *options):
    """What the property test in ``folder`` draws, and the profile's part in it."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "conftest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, "--rootdir", folder, "-c", os.devnull, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(folder)))},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "drawn" in line]


@pytest.mark.slow
def test_examples_are_the_same_each_time_whatever_is_imported_and_others_when_exploring(tmp_path):
    place = tmp_path / "here"
    place.mkdir()
    (place / "test_property.py").write_text(PROPERTY)
    (place / "ours.py").write_text("SIZES = []")
    first = examples(place)
    assert len(first) == 200
    (place / "ours.py").write_text(f"SIZES = {[7**n for n in range(5, 20)]}\nNAMES = {[f'n{n}' for n in range(50)]}")
    assert examples(place) == first
    explored = examples(place, "--hypothesis-profile", "explore")
    assert len(explored) == 200
    assert explored != first
