import json
import shutil

import pytest
from report_records import HOSTILE, records

from benchmarks.records.store import Store
from benchmarks.report.__main__ import main
from benchmarks.reproductions import published


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    store = Store(root / "runs", root / "cells")
    for record in records():
        store.write(record)
    (root / "published").mkdir()
    line = "P,table 1,a setting,accuracy,91.5,%,memory,another trainer"
    (root / "published" / "p.csv").write_text(f"{','.join(published.COLUMNS)}\n{line}\n")
    (root / "reproductions" / "one").mkdir(parents=True)
    claims = [{"text": "it works", "seen": seen, "evidence": HOSTILE} for seen in (True, False, None)]
    (root / "reproductions" / "one" / "outcome.json").write_text(json.dumps({"claims": claims, "setting": "small"}))
    return root


@pytest.fixture(scope="module")
def built(results):
    assert main(["--results", str(results), "--out", str(results / "page")]) == 0
    return results / "page"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()
