"""The list of reproductions and their states."""

import json

import pytest

from benchmarks import reproduce
from benchmarks.reproductions import names

HEAD = "method,published,certainty,ours,std,n\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a,90,raw,91,0.5,3\nb,,,50,,1\n", "reproduced within tolerance: all 1"),
        ("a,90,raw,91,0.5,3\nb,50,raw,60,,1\nc,50,raw,60,10,4\n", "differs: 2 of 3 agree"),
        ("a,90,memory,50,,1\nb,80,raw,,,\n", "none to compare"),
        ("", "none to compare"),
    ],
)
def test_agreement_counts_numbers_that_may_be_asserted(tmp_path, lines, expected):
    path = tmp_path / "table.csv"
    path.write_text(HEAD + lines)
    assert reproduce.agreement(path) == expected


def test_the_list_names_every_reproduction_with_its_state(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "reproductions" / "dpp_mnist"
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"claims": [{"seen": True}, {"seen": False}, {"seen": None}]}))
    (folder / "table.csv").write_text(HEAD + "a,90,raw,10,,1\n")
    assert reproduce.main(["--results", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert set(names()) <= set(lines)
    assert "differs: 0 of 1 agree" in lines["dpp_mnist"] and "1 / 1 / 1" in lines["dpp_mnist"]
    assert "not run" in lines["spectral_rnn"]
