"""secateurs.records and secateurs.run: what lies in a folder of results, and what the command line does."""

import signal
from pathlib import Path

import pandas as pd
import pytest

import secateurs
from benchmarks.records.store import Store
from benchmarks.storage.paths import Paths

QUICK = ["trainer=tiny", "measure=none", "track=none", "dataset.limit=200", "dataset.limit_test=100"]


@pytest.mark.slow
@pytest.mark.usefixtures("accelerator")
def test_run_does_what_the_command_line_does_and_records_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = signal.getsignal(signal.SIGTERM)
    found = secateurs.run(["method=random,magnitude", "seed=0,1", *QUICK])
    assert [(record.method, record.seed) for record in found] == [
        ("random", 0), ("random", 1), ("magnitude", 0), ("magnitude", 1)
    ]  # fmt: skip
    assert all(record.status == "done" for record in found)
    assert signal.getsignal(signal.SIGTERM) is answer
    again = secateurs.run(["method=random,magnitude", "seed=0,1", *QUICK])
    assert again == found  # not run again: each record says when it was made
    table = secateurs.records("results")
    assert isinstance(table, pd.DataFrame) and len(table) == 4
    stored = {record.key: record for record in Store.of(Paths(results=Path("results"))).load()[0]}
    for _, row in table.iterrows():
        record = stored[row["key"]]
        assert row["tuned_accuracy"] == record.metrics.tuned.accuracy
        assert row["selection._target_"] == record.config["selection"]["_target_"]
        assert row["trainer.train.epochs"] == 1 and row["seed"] == record.seed
    assert not any(name.startswith(("paths", "track.", "hydra")) for name in table.columns)
    assert table.columns.is_unique and "prune_residual" in table.columns


@pytest.mark.usefixtures("accelerator")
def test_run_refuses_unknown_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(secateurs.BadInput, match="unknown method 'spectrall'"):
        secateurs.run(["method=spectrall"])
    assert not (tmp_path / "results").exists()


def test_no_records_is_said(tmp_path):
    with pytest.raises(secateurs.BadInput, match="no records in"):
        secateurs.records(tmp_path)
