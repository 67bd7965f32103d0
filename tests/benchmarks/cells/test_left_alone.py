"""What a cell leaves alone of its network is said wherever its result is."""

import re

import pytest

from benchmarks.cells.remarks import note_of
from benchmarks.records.store import Store
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.run_command import main

TINY = ["trainer=tiny", "dataset.limit=120", "measure=none", "calibration.samples=32", "track=none"]
STREAMS = ["conv1", "stage2.0.conv2", "stage3.0.conv2"]  # of a ResNet-20


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEURS_DATA", "")
    return ["dataset=digits", "model=resnet20", *TINY, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/c"]


@pytest.mark.slow
def test_it_is_in_the_record_its_note_the_terminal_and_the_boards_footnote(words, tmp_path, capsys):
    assert main(["method=random", "budget.keep=0.5", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    [record] = Store.of(Paths(tmp_path / "results")).load()[0]
    assert [each.layer for each in record.left_alone] == STREAMS
    assert all("residual stream" in each.reason for each in record.left_alone)
    names = f"left alone: {', '.join(STREAMS)}"
    assert names in record.budget.note
    [line] = re.findall(r"(?:✓|↓) digits/resnet20 .*?tuned \((.*?)\)", said)
    assert names in line
    for page in (said, (tmp_path / "results/boards/leaderboard.md").read_text()):
        assert re.search(
            r"random, seed 0: left alone: conv1: residual stream \(prune it with prune.?_residual=true\)", page
        )


@pytest.mark.slow
def test_it_is_in_the_message_of_a_budget_that_cannot_be_reached(words, capsys):
    assert main(["method=random", "budget.keep=null", "budget.compression=50", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be reached" in said and "left alone: conv1 (residual stream" in said
    assert "python -m benchmarks.groups" in said


def test_a_note_names_some_and_counts_the_others():
    assert note_of(None, {}) is None and note_of("x", {}) == "x"
    assert note_of(None, {"a": "why"}) == "left alone: a"
    assert note_of("x", dict.fromkeys("abcde", "why")) == "x; left alone: a, b, c and 2 more"
