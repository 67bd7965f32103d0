"""Commands that write something beside records, killed at many moments: what is there is whole, and the same command
goes on. A file under a hidden temporary name may be left; it is swept up when it is an hour old."""

import json
import os
import shutil
import signal
import time

import pytest
from sabotage import TINY, Run, count_acts, killed_at, moments, records
from sample_records import made
from wandb_files import read_now

from benchmarks.records.store import Store, read
from benchmarks.storage.paths import Paths

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def visible(folder):
    """The files under ``folder`` and what is in them, without hidden temporary ones."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_everywhere(arrange, words, command, count, tmp_path, check, fewest=1, clean=False):
    """Kill a command at several moments, ``check`` what is there, and let the same command go on.

    Args:
        arrange: makes the folder of a run.
        words: of the command, for a folder.
        command: its module.
        count: moments to kill it at.
        tmp_path: for the folders.
        check: called with the folder after the kill (``ended`` false), and after the same command has gone on (true).
        fewest: kills that must have happened.
        clean: as for :class:`sabotage.Run`.
    """
    counted = tmp_path / "counted"
    arrange(counted)
    how_many = count_acts(counted, words=words(counted), command=command, clean=clean)
    check(counted, True)
    killed = 0
    for number in moments(how_many + 1, count):
        root = tmp_path / str(number)
        arrange(root)
        run = Run(root, words=words(root), command=command, sabotage=killed_at(number), clean=clean)
        code = run.run()
        assert code in (-signal.SIGKILL, 0), run.output
        killed += code == -signal.SIGKILL
        check(root, False)
        again = Run(root, words=words(root), command=command, clean=clean)
        assert again.run() == 0, again.output
        assert "Traceback" not in again.output
        check(root, True)
    assert killed >= min(fewest, how_many)


# -------------------------------------------------------------------------------------------------------------- submit


def test_a_submit_that_is_killed_loses_no_record_and_the_same_command_goes_on(tmp_path, long):
    sent = {record.key: record.text() for record in map(made, range(5))}
    reviewed = made(7)

    def arrange(root):
        store = Store.of(Paths(root / "results"))
        for seed in range(5):
            store.write(made(seed))
        store.write(reviewed, store.cells)

    def check(root, ended):
        store = Store.of(Paths(root / "results"))
        for key, text in sent.items():
            there = [path for folder in (store.runs, store.cells) for path in folder.glob(f"*/*/{key}.json")]
            assert there and all(path.read_text() == text for path in there)
            assert not ended or there == [store.path_of(read(there[0]), store.cells)]
        assert store.path_of(reviewed, store.cells).read_text() == reviewed.text()
        assert store.load()[1] == []

    def words(root):
        return ["--results", f"{root}/results"]

    kill_everywhere(arrange, words, "benchmarks.submit", 40 if long else 6, tmp_path, check, 4)


# -------------------------------------------------------------------------------------------------------- retry stale


def test_a_retry_of_stale_cells_that_is_killed_loses_no_record_and_the_same_command_goes_on(tmp_path, long):
    first = Run(tmp_path / "first", words=["-m", "method=random,magnitude", "seed=0", *TINY, "track=none"])
    assert first.run() == 0, first.output
    results = Store.of(Paths(first.root / "results"))
    stale = {}
    for record in results.load()[0]:
        stale[record.key] = record.model_copy(update={"fingerprint": record.fingerprint | {"code": "0" * 16}})
        results.write(stale[record.key])

    def arrange(root):
        shutil.copytree(first.root / "results", root / "results")

    def check(root, ended):
        store = Store.of(Paths(root / "results"))
        there, problems = store.load()
        assert problems == [] and {record.key for record in there} == set(stale)
        assert all(record.finished and record.metrics == stale[record.key].metrics for record in there)
        renewed = [record for record in there if record != stale[record.key]]
        assert all(record.fingerprint["code"] != "0" * 16 for record in renewed)
        assert not ended or len(renewed) == len(stale)

    def words(root):
        return ["--results", f"{root}/results", "--retry", "stale"]

    kill_everywhere(arrange, words, "benchmarks.status", 40 if long else 5, tmp_path, check, 3)


# -------------------------------------------------------------------------------------------------------------- export


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Results with one network that was saved."""
    root = tmp_path_factory.mktemp("kept")
    run = Run(root, words=["method=magnitude", "seed=0", "save=true", *TINY, "track=none"])
    assert run.run() == 0, run.output
    return root


@pytest.mark.parametrize("kind", ["safetensors", "torch_export"])
def test_an_export_that_is_killed_leaves_no_half_network_and_the_same_command_goes_on(tmp_path, kept, long, kind):
    import torch

    from benchmarks.export import load_network
    from benchmarks.models.saved import probe, read_network

    [key] = records(kept)
    network, (description, _) = (
        load_network(kept / "results/networks" / key),
        read_network(kept / "results/networks" / key),
    )
    inputs = probe(description["shape"], 3)
    expected = network(inputs)

    def arrange(root):
        root.mkdir(parents=True, exist_ok=True)
        (root / "results").symlink_to(kept / "results")

    def words(root):
        return [f"key={key}", f"format={kind}", f"output={root}/exports", f"paths.results={root}/results"]

    def check(root, ended):
        found = visible(root / "exports")
        if kind == "torch_export":
            assert set(found) == {f"{key}.pt2"} or (not found and not ended)
            outputs = [torch.export.load(root / "exports" / name).module()(inputs) for name in found]
        else:
            assert set(found) == {f"{key}/network.json", f"{key}/weights.safetensors"} or not ended
            whole = f"{key}/network.json" in found  # comes last; without it there is no network
            outputs = [load_network(root / "exports" / key)(inputs)] if whole else []
        assert all(torch.allclose(output, expected, atol=1e-5) for output in outputs)
        assert outputs or not ended

    kill_everywhere(arrange, words, "benchmarks.export", 20 if long else 2, tmp_path, check)


# -------------------------------------------------------------------------------------------------------------- report


@pytest.mark.parametrize("figures", [False, True])
def test_a_report_that_is_killed_leaves_no_half_page_and_the_same_command_goes_on(tmp_path, reference, long, figures):
    whole = {}

    def arrange(root):
        shutil.copytree(reference / "results", root / "results")
        shutil.rmtree(root / "results/boards")

    def words(root):
        return ["--results", f"{root}/results", *([] if figures else ["--no-figures"])]

    def check(root, ended):
        found = visible(root / "results/boards")
        if not whole:
            whole.update(found)
            assert found["report.html"].rstrip().endswith(b"</html>")
            assert any(name.endswith(".png") for name in found) == figures
        for name, content in found.items():
            # the page names the folder of results
            assert len(content) > 0 and (content == whole[name] or name == "report.html")
            assert name != "report.html" or content.rstrip().endswith(b"</html>")
        assert not ended or set(found) == set(whole)
        assert records(root) == records(reference)

    kill_everywhere(arrange, words, "benchmarks.report.__main__", 20 if long else 2, tmp_path, check, clean=figures)


# ---------------------------------------------------------------------------------------------------------------- push


def test_a_push_that_is_killed_remembers_only_what_is_up_and_the_same_command_goes_on(tmp_path, long, fresh_wandb):
    uploaded = [made(seed, settings={"method": {"name": "spectral"}}) for seed in range(3)]
    keys = {record.key for record in uploaded}

    def arrange(root):
        for record in uploaded:
            Store.of(Paths(root / "results")).write(record)

    def words(root):
        return ["push", "--offline", "--results", f"{root}/results", "--dir", f"{root}/w"]

    def check(root, ended):
        ledger = root / "w/offline-pushed.json"
        pushed = set(json.loads(ledger.read_text())) if ledger.exists() else set()
        assert pushed == keys | {"board"} or not ended
        if ended:
            done = {run["id"].partition("-")[0] for run in runs_there(root / "w") if run["exit"] == 0}
            assert pushed == done
        assert records(root).keys() == keys

    kill_everywhere(arrange, words, "benchmarks.track", 20 if long else 3, tmp_path, check)


def runs_there(folder):
    """Runs of an offline folder; that of a process that was killed may never be finished."""
    return [read_now(path) for path in sorted(folder.glob("wandb/*run-[0-9]*/*.wandb"))]


# ----------------------------------------------------------------------------------------------------------- leftovers


def test_what_a_killed_writer_left_long_ago_is_swept_up(tmp_path, reference):
    root = tmp_path / "root"
    shutil.copytree(reference / "results", root / "results")
    boards = root / "results/boards"
    old, young = boards / ".report.html.0a1b.tmp", boards / ".report.html.2c3d.tmp"
    for path in (old, young):
        path.write_text("half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    run = Run(root, words=["--results", f"{root}/results", "--no-figures"], command="benchmarks.report.__main__")
    assert run.run() == 0, run.output
    assert not old.exists() and young.exists(), "what is young may be somebody's who is writing now"
