import json
import os
import shutil

import pytest
from filelock import FileLock
from report_fixtures import HOSTILE, records

from benchmarks.records.store import Store
from benchmarks.report.__main__ import main
from benchmarks.reproductions import published


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Fill a folder once for all workers of a run: what the first has made, the others wait for and read."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def make(name, fill):
        place = shared / f"once_{name}"
        with FileLock(shared / f"once_{name}.lock"):
            if not place.exists():
                beginning = shared / f"once_{name}.{os.getpid()}"
                beginning.mkdir()
                fill(beginning)
                beginning.rename(place)
        return place

    return make


@pytest.fixture(scope="session")
def results(made_once):
    return made_once("results", fill_results)


def fill_results(root):
    store = Store(root / "runs", root / "cells")
    for record in records():
        store.write(record)
    (root / "published").mkdir()
    line = "P,table 1,a setting,accuracy,91.5,%,memory,another trainer"
    (root / "published" / "p.csv").write_text(f"{','.join(published.COLUMNS)}\n{line}\n")
    (root / "reproductions" / "one").mkdir(parents=True)
    claims = [{"text": "it works", "seen": seen, "evidence": HOSTILE} for seen in (True, False, None)]
    (root / "reproductions" / "one" / "outcome.json").write_text(json.dumps({"claims": claims, "setting": "small"}))


@pytest.fixture(scope="session")
def built(results, made_once):
    def build(folder):
        assert main(["--results", str(results), "--out", str(folder)]) == 0

    return made_once("page", build)


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
