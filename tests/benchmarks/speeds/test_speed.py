"""The speed command runs, and what it compares computes the same. No test looks at how long anything took."""

import json

import pytest

from benchmarks import speed
from benchmarks.measure.side_by_side import Finding, Promise, Times, alone, alternate, as_ratio
from methods.errors import BadInput

pytestmark = pytest.mark.slow

COMPARED = {  # claims that are cheap when quick -> how many of their rows must compare results
    "spectral_search": 2,
    "statistics_pass": 1,
    "kdpp": 2,
    "pq_masks": 3,
    "fisher": 2,
    "exact_obs": 1,
    "node_budget": 1,
    "groups": 4,
    "status": 1,
}
ONLY_RUN = ("spectral_wide", "dpp_edges", "kfac", "latency")


@pytest.mark.parametrize("name", COMPARED)
def test_the_compared_implementations_agree(name):
    findings = list(speed.measure(name, quick=True))
    compared = [finding for finding in findings if finding.agree is not None]
    assert len(compared) == COMPARED[name]
    assert all(finding.agree for finding in compared), [f"{f.what}: {f.note}" for f in compared if not f.agree]
    assert all(finding.times.ours > 0 for finding in findings)


def test_the_trainer_and_the_bare_loops_end_with_the_same_weights(monkeypatch):
    monkeypatch.delenv("SECATEURS_DATA", raising=False)
    findings = list(speed.measure("epoch", quick=True))
    assert len(findings) == 4
    assert all(finding.agree and "random images" in finding.note for finding in findings)


def test_the_command_prints_a_table_and_writes_nothing_unasked(capsys, tmp_path):
    assert speed.main(["--quick", *ONLY_RUN, "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "compared with" in printed.out and "ResNet-20" in printed.out
    assert "(4/4)" in printed.err
    assert not list(tmp_path.iterdir())


def test_the_claims_about_whole_processes_and_cells_run():
    rows = [row for name in ("command", "cell", "plan") for row in speed.measure(name, quick=True)]
    assert len(rows) == 6 and not any(row.agree is False for row in rows)


@pytest.mark.slow
def test_the_claims_about_large_data_run():
    rows = list(speed.measure("data", quick=True))
    assert rows and not any(row.agree is False for row in rows)


def test_no_claim_is_left_without_a_test():
    assert set(speed.claims()) == {*COMPARED, *ONLY_RUN, "epoch", "command", "cell", "plan", "data"}


@pytest.mark.parametrize("words", [["epok"], ["kfac", "--quick", "--save"]])
def test_mistakes_are_explained(words):
    with pytest.raises(BadInput, match="choose from|leave out"):
        speed.main(words)


def _entry(what: str, seconds: float) -> dict:
    finding = Finding(what, Times(seconds, 2.0, seconds / 2, 0.1, 3.0, 5), "a_reference", Promise(ratio=0.5), True, "N")
    mark = {"cpu": "a processor", "threads": 2, "torch": "2"}
    return {"findings": [finding.plain()], "fingerprint": mark, "load": 0.1, "undisturbed": True}


def test_saving_some_claims_keeps_the_others(tmp_path):
    speed.save({"kfac": _entry("first", 0.9), "epoch": _entry("second", 1.5)}, tmp_path)
    speed.save({"kfac": _entry("third", 0.4)}, tmp_path)
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert [row["what"] for entry in stored.values() for row in entry["findings"]] == ["second", "third"]
    assert [stored[name]["findings"][0]["holds"] for name in ("epoch", "kfac")] == [False, True]
    page = (tmp_path / "speed.md").read_text()
    assert "| second | 1.5 s |" in page and "epoch, kfac: a processor, 2 threads" in page


def test_a_foreign_file_is_not_overwritten(tmp_path):
    (tmp_path / "speed.json").write_text("[1, 2]")
    with pytest.raises(BadInput, match="not a table of speeds"):
        speed.save({"kfac": _entry("first", 1.0)}, tmp_path)
    assert (tmp_path / "speed.json").read_text() == "[1, 2]"


def test_runs_alternate_and_warm_up_rounds_do_not_count():
    calls: list[str] = []
    pair, other = alternate(
        lambda: calls.append("a"), lambda: calls.append("b"), lambda: calls.append("c"), pairs=2, warm_up=1
    )
    assert calls == ["a", "b", "c"] * 3
    assert pair.pairs == other.pairs == 2 and pair.ours == other.ours
    assert alone(lambda: calls.append("d"), runs=3, warm_up=1).pairs == 3 and calls.count("d") == 4


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians():
    times = Times.of([1.0, 2.0, 9.0], [2.0, 1.0, 3.0])
    assert times.ratio == 2.0 and times.ours == 2.0 and times.theirs == 2.0


def test_promises():
    times = Times(0.4, 1.0, 0.4)
    assert Promise(ratio=0.4).holds(times) and not Promise(ratio=0.39).holds(times)
    assert Promise(seconds=0.4).holds(times) and not Promise(seconds=0.3).holds(times)
    assert not Promise(ratio=5).holds(Times(0.4))  # what was not compared has not kept a ratio
    precise = Times(0.4, 1.0, 0.4, 0.39, 0.41)
    assert Promise(spread=0.026).holds(precise) and not Promise(spread=0.024).holds(precise)
    assert not Promise(spread=0.5).holds(times), "no interval keeps no precision"
    assert Promise(seconds=1, megabytes=300).holds(Times(0.4, megabytes=300))
    assert not Promise(seconds=1, megabytes=300).holds(Times(0.4, megabytes=301))
    assert not Promise(seconds=1, megabytes=300).holds(Times(1.1, megabytes=10))
    assert not Promise(seconds=1, megabytes=300).holds(Times(0.4)), "memory that nobody looked at keeps no promise"
    assert str(Promise(seconds=1, megabytes=300)) == "≤ 1 s, 300 MB"
    assert Finding("x", times).holds is None
    assert as_ratio(0.01) == "1/100" and as_ratio(1.05) == "1.050"
