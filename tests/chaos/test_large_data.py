"""What happens to images that are decoded into shared arrays, or while training: kills, full disks, lost files.

As for all sweeps: typing the command again completes it, with the results of an undisturbed run.
"""

import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sabotage import Acts, Run, killed_at, records, stamps

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

COUNT = 160


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """JPEG images of two classes, of which the darker ones are the first."""
    root = tmp_path_factory.mktemp("images") / "set"
    random = np.random.default_rng(0)
    for number in range(COUNT):
        folder = root / ("test" if number >= COUNT - 40 else "train") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (12, 14, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.jpg")
    return root


def words(source, storage="cached", grid=("method=random,magnitude", "seed=0")):
    chosen = ["-m", *grid, "dataset=imagefolder", "dataset.name=mine", f"dataset.source={source}"]
    chosen += ["dataset.shape=[3,8,8]", f"dataset.storage={storage}", "dataset.workers=1", "dataset.augment=null"]
    chosen += ["model=mlp", "model.widths=[12]", "trainer=tiny", "trainer.train.epochs=2", "measure=none"]
    return [*chosen, "calibration.samples=32", "budget.keep=0.5", "track=none"]


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    run = Run(root, words=words(source))
    assert run.run() == 0, run.output
    assert len(records(root)) == 2
    return root


def arrays(root):
    """Finished arrays, and hidden folders of unfinished ones."""
    data = root / "cache" / "data"
    return sorted(data.glob("*/manifest.json")), sorted(data.glob(".*.making"))


def check_again(root, source, reference):
    """The same command completes the sweep with the results of an undisturbed one, from whole arrays."""
    before = stamps(root)
    again = Run(root, words=words(source), sabotage=small_pieces())
    assert again.run() == 0, again.output
    assert {name: stamps(root)[name] for name in before} == before, "a finished cell was done again"
    assert records(root) == records(reference)
    whole, unfinished = arrays(root)
    assert len(whole) == 1 and not unfinished


def small_pieces(sabotage=None):
    """Sabotage beside arrays that are written, and noted, in pieces of a few images."""

    def arrange(root):
        from benchmarks.data import arrays

        arrays.PIECE, arrays.SAVED_EVERY = 8, 1
        if sabotage is not None:
            sabotage(root)

    return arrange


def heard(sabotage=None):
    """Sabotage beside warnings that reach the output, as on the command line: pytest's handlers would take them."""

    def arrange(root):
        logging.getLogger().handlers.clear()
        if sabotage is not None:
            sabotage(root)

    return arrange


def test_a_sweep_of_eight_cells_decodes_once(source, tmp_path):
    def counted(root):
        from benchmarks.data.streaming import Streamed

        decoded = Streamed.decoded

        def counting(self, batches, pin=False):
            with Path(root, "decoded.txt").open("a") as file:
                file.write(f"{sum(map(len, batches))}\n")
            return decoded(self, batches, pin)

        Streamed.decoded = counting

    run = Run(tmp_path, words=words(source, grid=("method=random,magnitude", "seed=0,1", "budget.keep=0.5,0.6")))
    run.words.remove("budget.keep=0.5")
    run.sabotage = counted
    assert run.run() == 0, run.output
    assert len(records(tmp_path)) == 8
    assert sum(map(int, (tmp_path / "decoded.txt").read_text().split())) == COUNT


@pytest.mark.parametrize("number", [9, 34])
def test_killed_while_decoding(source, undisturbed, tmp_path, number):
    run = Run(tmp_path, words=words(source), sabotage=small_pieces(killed_at(number)))
    assert run.run() == -signal.SIGKILL, run.output
    assert not list(tmp_path.glob("results/runs/mine/*/*.json")), "this is after the decoding"
    check_again(tmp_path, source, undisturbed)


def _no_room(_number):
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_while_decoding_leaves_nothing_half_written(source, undisturbed, tmp_path):
    def full(root):
        def hook(event, arguments):
            if event == "os.rename" and "progress.json" in str(arguments[1]):
                _no_room(0)

        sys.addaudithook(hook)

    run = Run(tmp_path, words=words(source), sabotage=small_pieces(full))
    assert run.run() != 0
    assert "No space left" in run.output and "dataset.storage=streamed" in run.output, run.output
    assert "Traceback" not in run.output
    assert arrays(tmp_path) == ([], [])
    check_again(tmp_path, source, undisturbed)


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


def test_a_disk_that_is_really_full_is_seen_before_anything_is_decoded(source, undisturbed, tmp_path):
    with small_disk(tmp_path / "cache", "24k"):
        run = Run(tmp_path, words=words(source))
        assert run.run() != 0
        assert "GB are needed" in run.output and "Traceback" not in run.output, run.output
        assert arrays(tmp_path) == ([], [])


def test_a_vanished_file_is_named_and_the_command_goes_on_when_it_is_back(source, tmp_path):
    """It vanishes after it was listed: when the first worker has been told to read it."""

    def vanishing(root):
        from benchmarks.data.streaming import Decoder

        decode = Decoder.__call__

        def call(self, rows):
            victim = source / "train" / "class0" / "000.jpg"
            if victim.exists():
                victim.rename(source.parent / "away.jpg")
            return decode(self, rows)

        Decoder.__call__ = call

    cell = words(source, "streamed", grid=("method=random", "seed=0"))
    run = Run(tmp_path, words=cell, sabotage=vanishing)
    try:
        assert run.run() != 0
        assert "000.jpg has vanished since it was listed" in run.output and "Traceback" not in run.output
        assert not list(tmp_path.glob("results/runs/mine/*/*.json"))
    finally:
        (source.parent / "away.jpg").rename(source / "train" / "class0" / "000.jpg")
    again = Run(tmp_path, words=cell, name="again")
    assert again.run() == 0, again.output
    assert len(records(tmp_path)) == 1


def test_a_changed_file_under_the_arrays_is_noticed_between_two_runs(source, tmp_path):
    assert Run(tmp_path, words=words(source)).run() == 0
    victim = source / "train" / "class0" / "002.jpg"
    content, times = victim.read_bytes(), victim.stat()
    try:
        Image.new("RGB", (40, 40), (9, 9, 9)).save(victim)
        other = Run(tmp_path, words=words(source, grid=("method=random", "seed=7")), name="other", sabotage=heard())
        assert other.run() == 0, other.output
        assert "are not those that lie decoded in" in other.output
        assert len(arrays(tmp_path)[0]) == 2
    finally:
        victim.write_bytes(content)
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))


def _die_once(root, number):
    """A worker's process is killed when it decodes for the first time."""
    from benchmarks.data.streaming import Decoder

    decode, parent = Decoder.__call__, os.getpid()

    def call(self, rows):
        mark = Path(root, f"died{number}")
        if os.getpid() != parent and not mark.exists():
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, rows)

    Decoder.__call__ = call


@pytest.mark.parametrize("storage", ["cached", "streamed"])
def test_a_worker_that_is_killed_is_replaced(source, undisturbed, tmp_path, storage):
    run = Run(tmp_path, words=words(source, storage), sabotage=heard(partial(_die_once, number=1)))
    assert run.run() == 0, run.output
    assert "a process that decodes images has died" in run.output
    assert {key: record["metrics"] for key, record in records(tmp_path).items()} == {
        key: record["metrics"] for key, record in records(undisturbed).items()
    }


def test_killed_while_training_on_a_stream(source, undisturbed, tmp_path):
    """The trainer's checkpoint after the first epoch is there; what follows is what would have followed."""

    def after_an_epoch(root):
        def hook(event, arguments):
            if event == "os.rename" and str(arguments[1]).endswith("training.json"):
                Acts(lambda _: os.kill(os.getpid(), signal.SIGKILL), 2)(root)

        sys.addaudithook(hook)

    run = Run(tmp_path, words=words(source, "streamed"), sabotage=after_an_epoch)
    assert run.run() == -signal.SIGKILL, run.output
    assert list(tmp_path.glob("cache/dense/*/training.json"))
    again = Run(tmp_path, words=words(source, "streamed"), name="again")
    assert again.run() == 0, again.output
    assert {key: record["metrics"] for key, record in records(tmp_path).items()} == {
        key: record["metrics"] for key, record in records(undisturbed).items()
    }
