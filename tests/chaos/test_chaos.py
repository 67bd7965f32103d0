"""Whatever is done to a sweep, running it again completes it with the results of an undisturbed run.

The long version (--long) kills at many moments; the short one, part of every test run, at a few. The moments are drawn
with a fixed seed, so that a failure can be repeated.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import warm
from sabotage import GRID, SEED, TINY, Acts, Run, board, check_whole, killed_after, killed_at, moments, records
from sample_records import made
from wandb_files import entries

REPOSITORY = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def kill_and_check(root, reference, number):
    run = Run(root, sabotage=killed_at(number))
    code = run.run()
    assert code in (-signal.SIGKILL, 0), run.output  # 0: threads and probes make the number of acts vary a little
    check_whole(root, reference)
    return code


# ----------------------------------------------------------------------------------------------------------- kill -9


@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_killed_when_it_writes(tmp_path, reference, how_many, part):
    kill_and_check(tmp_path / "run", reference, int(part * how_many))


def test_killed_at_many_moments_of_writing(tmp_path, reference, how_many, long):
    numbers = moments(how_many, 60 if long else 5)
    codes = [kill_and_check(tmp_path / str(number), reference, number) for number in numbers]
    assert codes.count(-signal.SIGKILL) >= min(50, len(numbers) - 4)


def test_killed_between_placing_a_record_and_removing_its_temporary_name(tmp_path, reference):
    def arrange(root):
        def hook(event, arguments):
            if event == "os.remove" and ".json." in str(arguments[0]) and "/runs/digits/" in str(arguments[0]):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    assert Run(tmp_path, sabotage=arrange).run() == -signal.SIGKILL
    assert list(tmp_path.glob("results/runs/digits/*/.*.tmp"))
    check_whole(tmp_path, reference)


def test_killed_at_random_times_again_and_again(tmp_path, reference, long):
    """Training and pruning, where nothing is written; and each time what the former runs left is there."""
    before = _seconds_of_children()
    assert Run(tmp_path / "timed").run() == 0
    whole, generator, killed = _seconds_of_children() - before, random.Random(SEED), 0
    cases, kills = (4, 5) if long else (1, 5)
    for case in range(cases):
        struck = 0
        while not struck:
            root = tmp_path / f"{case} of {whole}"
            for _ in range(kills):
                code = Run(root, sabotage=killed_after(generator.uniform(0.1, 0.7) * whole)).run()
                assert code in (-signal.SIGPROF, 0)
                if code == 0:  # what was left to do took less
                    break
                struck += 1
            check_whole(root, reference)
            whole /= 1 if struck else 2  # the first run may have taken longer than all others
        killed += struck
    assert killed >= (8 if long else 1)


def _seconds_of_children():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


# ------------------------------------------------------------------------------------------------ asked to stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_ends_the_cell_closes_the_tracker_and_says_how_to_go_on(tmp_path, reference, number):
    words = [*GRID, *TINY, "track=wandb"]

    def interrupted(root):
        def stop(_):
            os.kill(os.getpid(), number)

        # In the midst of a cell: when the second dense network's checkpoint is renamed into place.
        Acts(stop, 60)(root)

    run = Run(tmp_path, words=words, sabotage=interrupted)
    assert run.run() == 130, run.output
    assert "The same command goes on where this one stopped" in run.output
    assert "Traceback" not in run.output
    assert not list(tmp_path.glob("results/runs/digits/*/.*"))
    for folder in tmp_path.glob("cache/wandb/wandb/*run-*"):
        assert _exit_code(folder) in (0, 1)  # finished, with or without success; never left open
    check_whole(tmp_path, reference)


def _exit_code(folder):
    [path] = folder.glob("*.wandb")
    for _ in range(200):
        codes = [m.exit.exit_code for m in entries(path) if m.WhichOneof("record_type") == "exit"]
        if codes:
            return codes[0]
        time.sleep(0.05)
    return None


# -------------------------------------------------------------------------------------------------- disk and folders


def full(number):
    def fail(_):
        raise OSError(28, "No space left on device")

    return Acts(fail, number)


def test_a_write_that_the_disk_refuses(tmp_path, reference, how_many, long):
    for number in moments(how_many, 25 if long else 4):
        run = Run(tmp_path / str(number), sabotage=full(number))
        if run.run() != 0:
            assert "No space left" in run.output, run.output
        check_whole(tmp_path / str(number), reference)


@contextmanager
def small_disk(folder, size):
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"no file system of one's own here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize("folder", ["results", "cache"])
def test_a_disk_that_is_really_full(tmp_path, reference, folder):
    with small_disk(tmp_path / folder, "64k"):
        filler = tmp_path / folder / "filler"
        filler.write_bytes(b"x" * 36_000)
        run = Run(tmp_path)
        assert run.run() == 1, run.output
        assert "No space left" in run.output, run.output
        assert "Traceback" not in run.output
        if folder == "results":
            assert all(json.loads(p.read_text()) for p in tmp_path.glob("results/runs/*/*/*.json"))
            subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / folder)], check=True)
            check_whole(tmp_path, reference)


def test_results_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "results").write_text("a file in the way")
    run = Run(tmp_path)
    assert run.run() == 2
    assert "is not a folder; type paths.results=FOLDER" in run.output and "Traceback" not in run.output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount read-only")
def test_read_only_results_show_boards_and_refuse_cells(tmp_path, reference):
    assert Run(tmp_path).run() == 0
    with small_disk(tmp_path / "unused", "64k"):
        pass  # skips where nothing can be mounted
    results = tmp_path / "results"
    subprocess.run(["mount", "--bind", str(results), str(results)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(results)], check=True)
        run = Run(tmp_path, words=["-m", "method=spectral", "seed=0", *TINY, "track=none"])
        assert run.run() == 1
        assert "Cannot write in" in run.output and "Traceback" not in run.output
        status = [sys.executable, "-m", "benchmarks.status", "--results", str(results)]
        assert subprocess.run(status, cwd=REPOSITORY, capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(results)], check=True)


# ------------------------------------------------------------------------------------------------------------ damage


def damaged(path, generator):
    content = bytearray(path.read_bytes())
    if generator.random() < 0.5:
        del content[generator.randrange(len(content)) :]
    else:
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def test_damaged_records_and_checkpoints_are_noticed_and_made_again(tmp_path, reference):
    generator = random.Random(SEED)
    run = Run(tmp_path)
    assert run.run() == 0
    for path in (*tmp_path.glob("results/runs/digits/*/*.json"), *tmp_path.glob("cache/dense/*/*")):
        damaged(path, generator)
    assert run.run() == 0, run.output
    assert records(tmp_path) == records(reference) and board(tmp_path) == board(reference)
    assert "0 done already, 4 to run" in run.output


def test_each_single_damage_of_a_record_is_noticed(tmp_path, reference):
    from benchmarks.records.store import Unreadable, read

    generator = random.Random(SEED)
    path = next(iter(reference.glob("results/runs/digits/*/*.json")))
    whole, copy = path.read_bytes(), tmp_path / path.name
    for _ in range(500):
        copy.write_bytes(whole)
        damaged(copy, generator)
        with suppress(Unreadable):
            assert read(copy) == read(path)  # a bit of white space, or of the case of an escape


# ----------------------------------------------------------------------------------------------------------- workers


def launched(folder, *words, **environment):
    folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    path = os.pathsep.join([str(Path(__file__).parent / "site"), str(REPOSITORY)])
    env = {
        **os.environ,
        "SECATEURS_DATA": "",
        "COLUMNS": "200",
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
    } | environment
    return warm.run("run.py", [*GRID, *TINY, "track=none", *words, *folders], env, folder, timeout=300)


JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_a_worker_that_dies_once_costs_nothing(tmp_path, reference):
    key = sorted(records(reference))[1]
    once = {"CHAOS_PATH": f".{key}.json", "CHAOS_ONCE": str(tmp_path / "died")}
    result = launched(tmp_path, *JOBLIB, **once)
    assert (tmp_path / "died").exists()
    assert result.returncode == 0, result.stdout + result.stderr
    check_whole(tmp_path, reference)


def test_a_worker_that_dies_each_time_is_named_and_the_others_are_done(tmp_path, reference):
    key = sorted(records(reference))[1]
    result = launched(tmp_path, *JOBLIB, CHAOS_PATH=f".{key}.json")
    assert result.returncode == 1
    assert "its worker died 2 times" in result.stdout
    assert "1 of 4 cells have no record" in result.stdout and key in result.stdout
    assert set(records(reference)) - set(records(tmp_path)) == {key}
    check_whole(tmp_path, reference)


# --------------------------------------------------------------------------------------------------------- many at once


def race(root, keys, seed):
    from benchmarks.records.store import Store
    from benchmarks.storage.lease import first_come

    store, done = Store(root / "runs", root / "cells"), []
    order = list(range(keys))
    random.Random(seed).shuffle(order)
    for number in order:
        record = made(number)
        folder, path = root / "runs/.running", store.path_of(record)
        with first_come(folder, path.exists, "race", name=record.key, poll=0.001) as mine:
            if mine:
                store.write(record)
                done.append(record.key)
    (root / f"{seed}.json").write_text(json.dumps(done))


def test_eight_processes_that_race_for_the_same_records_write_each_once(tmp_path):
    from benchmarks.records.store import Store

    keys, processes = 1000, []
    for seed in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                race(tmp_path, keys, seed)
                os._exit(0)
            finally:
                os._exit(1)
        processes.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0] * 8
    written = [key for seed in range(8) for key in json.loads((tmp_path / f"{seed}.json").read_text())]
    found, problems = Store(tmp_path / "runs", tmp_path / "cells").load()
    assert len(written) == len(set(written)) == len(found) == keys
    assert problems == []
    assert list((tmp_path / "runs/.running").iterdir()) == []


def test_two_sweeps_of_the_same_cells_share_them(tmp_path, reference):
    runs = [Run(tmp_path, words=[*GRID, *TINY, "track=none"]) for _ in range(2)]
    for run in runs:
        run.start()
    assert [run.wait() for run in runs] == [0, 0]
    check_whole(tmp_path, reference)


# -------------------------------------------------------------------------------------------------------------- clock


def test_a_clock_that_jumps_does_no_harm(tmp_path, reference):
    """A day back and forth at each look."""

    def jumping(_root):
        real, looks = time.time, [0]

        def now():
            looks[0] += 1
            return real() + 86_400 * (-1) ** looks[0]

        time.time = now

    run = Run(tmp_path, sabotage=jumping)
    assert run.run() == 0, run.output
    check_whole(tmp_path, reference)
