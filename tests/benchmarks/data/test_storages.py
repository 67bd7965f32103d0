"""The same samples and the same batches for every storage, whatever the number of workers, and after a kill."""

import json
import logging
import os
import pickle
import shutil
import signal
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from benchmarks.data import arrays, streaming
from benchmarks.data.arrays import open_arrays
from benchmarks.data.pixels import LargeSplit
from benchmarks.data.sources.shelf import Texts
from benchmarks.data.split import Split
from benchmarks.data.splits import load
from benchmarks.data.streaming import Decoder, Streamed
from benchmarks.storage.paths import REPOSITORY
from benchmarks.training.scoring import evaluate
from benchmarks.training.trainer import TrainerSettings, fit
from methods.errors import BadInput
from methods.seeds import stream

STORAGES = ("memory", "cached", "streamed")


def config(source, **changes):
    section = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "dataset" / "imagefolder.yaml"))
    section |= {"name": "mine", "source": str(source), "shape": [3, 8, 8], "augment": {"crop": 1, "flip": True}}
    return section | {"workers": 0, "validation": 0.25} | changes


@pytest.fixture
def source(tmp_path):
    """150 JPEG images of several sizes in three classes."""
    generator = np.random.default_rng(0)
    for number in range(150):
        folder = tmp_path / "set" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        height, width = generator.integers(9, 20, 2)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg")
    return tmp_path / "set"


def batches(split, **how):
    how = {"batch_size": 16, "generator": stream(3, "order"), "augment": split.augmentation is not None} | how
    return list(split.batches(**how))


def same(first, second, strides=True):
    assert len(first) == len(second)
    for (x, y), (u, v) in zip(first, second, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)
        assert not strides or x.stride() == u.stride(), "another layout in memory, for which kernels round otherwise"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": None},
        {"stored": 11, "augment": {"crop": 0, "flip": True}},
        {"stored": 11, "augment": {"crop": 2, "flip": False, "jitter": 0.4}},
        {"stored": 12, "augment": {"crop": 0, "flip": True, "resized_crop": [0.2, 1.0], "jitter": 0.3}},
        {"shape": [1, 8, 6], "augment": {"crop": 0, "flip": True}, "mean": [0.5], "std": [0.2]},
    ],
)
def test_every_storage_gives_the_same_batches(source, tmp_path, changes):
    loaded = [load(config(source, storage=name, **changes), 1, tmp_path / "cache") for name in STORAGES]
    assert [type(data.train) for data in loaded] == [Split, LargeSplit, LargeSplit]
    for data in loaded[1:]:
        for part in ("train", "validation", "test"):
            ours, theirs = getattr(loaded[0], part), getattr(data, part)
            assert torch.equal(ours.targets, theirs.targets)
            same(batches(ours), batches(theirs))
            same(batches(ours, generator=None, augment=False), batches(theirs, generator=None, augment=False))
            some = torch.tensor([5, 0, 7])
            assert torch.equal(ours.to_inputs(some), theirs.to_inputs(some))
            assert torch.equal(ours.to_inputs(slice(2, 9)), theirs.to_inputs(slice(2, 9)))
        shape = loaded[0].train.to_inputs(slice(0, 1)).shape[1:]
        assert shape == loaded[0].shape and ours.size_of_input == theirs.size_of_input == shape.numel()
        assert [len(data.train), len(data.validation), len(data.test)] == [90, 30, 30]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(source, tmp_path, workers):
    one, other = (
        load(config(source, storage="streamed", workers=number), 0, tmp_path / "cache") for number in (0, workers)
    )
    same(batches(one.train), batches(other.train))
    assert torch.equal(one.train.to_inputs(slice(0, 40)), other.train.to_inputs(slice(0, 40)))


@pytest.mark.parametrize("storage", STORAGES)
def test_processes_of_one_training_share_each_batch(source, tmp_path, storage):
    data = load(config(source, storage=storage), 0, tmp_path / "cache")
    whole = batches(data.train, batch_size=11)  # 90 = 8 x 11 + 2: two samples are left for the last batch
    for rank in range(3):
        own = batches(data.train, batch_size=11, share=(rank, 3))
        same([(x[rank::3], y[rank::3]) for x, y in whole if len(x) >= 3], own, strides=False)
        assert len(own) == 8


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3)
    return nn.Sequential(*layers)


@pytest.mark.usefixtures("accelerator")
def test_training_and_scores_are_equal_to_the_last_bit(source, tmp_path):
    settings = TrainerSettings(epochs=2, batch_size=32, learning_rate=0.05, augment=True)
    found = []
    for storage in STORAGES:
        data, model = load(config(source, storage=storage), 0, tmp_path / "cache"), network()
        fit(model, data, settings, seed=4)
        found.append((model.state_dict(), evaluate(model, data.test, batch_size=7)))
    for state, score in found[1:]:
        assert all(torch.equal(value, found[0][0][name]) for name, value in state.items())
        assert score == found[0][1]


@pytest.mark.slow
@pytest.mark.usefixtures("accelerator")
def test_a_streamed_training_that_was_killed_goes_on_with_other_workers_as_if_nothing_had_been(source, tmp_path):
    settings = TrainerSettings(epochs=3, batch_size=32, learning_rate=0.05, augment=True)
    data = load(config(source, storage="streamed"), 0, tmp_path / "cache")
    whole, resumed = network(), network()
    fit(whole, data, settings, seed=4)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(resumed, data, settings, seed=4, checkpoint=tmp_path / "kept", on_epoch=stop)
    fresh = network()
    data = load(config(source, storage="streamed", workers=2), 0, tmp_path / "cache")
    fit(fresh, data, settings, seed=4, checkpoint=tmp_path / "kept")
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_size_decides_unless_a_storage_is_named(source, tmp_path, monkeypatch, caplog):
    def kind(**changes):
        return load(config(source, **changes), 0, tmp_path / str(len(changes)) / "cache").train

    assert type(kind()) is Split
    monkeypatch.setattr("benchmarks.data.storage.MEMORY", 150 * 192 - 1)
    assert isinstance(kind(corrupt="refuse").inputs.store, arrays.Mapped)
    assert "dataset.storage=cached" in caplog.text
    monkeypatch.setattr("benchmarks.data.storage.ROOM", 0.0)
    assert isinstance(kind(corrupt="refuse", limit=50).inputs.store, Streamed)
    assert "dataset.storage=streamed" in caplog.text


def test_images_are_decoded_once_for_all_cells_and_again_when_a_file_changes(source, tmp_path, monkeypatch, caplog):
    settings = config(source, storage="cached")
    first = load(settings, 0, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "__call__", lambda *_: pytest.fail("decoded again"))
        again = load(settings, 5, tmp_path / "cache")
    assert again.checksum == first.checksum == load(config(source, storage="streamed"), 0, tmp_path / "cache").checksum
    Image.new("RGB", (30, 30), (255, 0, 0)).save(source / "class0" / "000.jpg")
    changed = load(settings, 0, tmp_path / "cache")
    assert changed.checksum != first.checksum
    assert "are not those that lie decoded in" in caplog.text


def folder_of(cache):
    [found] = [path.parent for path in (cache / "data").glob("*/manifest.json")]
    return found


def damage_truncated(path):
    with path.open("r+b") as file:
        file.truncate(1000)


def damage_flipped(path):
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_truncated, damage_flipped, os.unlink], ids=["truncated", "flipped", "gone"])
def test_damaged_arrays_are_noticed_when_they_are_opened_and_made_again(source, tmp_path, caplog, damage):
    settings = config(source, storage="cached")
    before = batches(load(settings, 0, tmp_path / "cache").train)
    damage(folder_of(tmp_path / "cache") / "train.u8")
    caplog.clear()
    same(before, batches(load(settings, 0, tmp_path / "cache").train))
    assert "is damaged" in caplog.text


def test_a_decoding_that_was_cut_short_goes_on_after_what_it_had_finished(source, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(arrays, "PIECE", 16)
    monkeypatch.setattr(arrays, "SAVED_EVERY", 2)
    settings = config(source, storage="cached")
    decode, seen = Decoder.__call__, []

    def cut(self, rows):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(rows)
        return decode(self, rows)

    monkeypatch.setattr(Decoder, "__call__", cut)
    with pytest.raises(KeyboardInterrupt):
        load(settings, 0, tmp_path / "cache")
    [work] = (tmp_path / "cache" / "data").glob(".*.making")
    assert len(json.loads((work / "progress.json").read_text())["parts"]["train"]["checksums"]) == 4
    assert not list((tmp_path / "cache" / "data").glob("*/manifest.json"))
    seen.clear()
    monkeypatch.setattr(Decoder, "__call__", lambda self, rows: (seen.append(rows), decode(self, rows))[1])
    resumed = load(settings, 0, tmp_path / "cache")
    assert seen[0][0] == 64 and sum(map(len, seen)) == 150 - 64
    assert "going on with" in caplog.text and not work.exists()
    same(batches(resumed.train), batches(load(config(source, storage="memory"), 0, tmp_path / "other").train))


def spoil(source):
    """Two images that are none any more."""
    for name in ("class0/003.jpg", "class1/004.jpg"):
        (source / name).write_bytes(b"\xff\xd8 not an image")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_corrupt_image_is_named_and_refused(source, tmp_path, storage):
    spoil(source)
    data_of = config(source, storage=storage)
    with pytest.raises(BadInput, match=r"00[34].jpg cannot be decoded as an image"):
        batches(load(data_of, 0, tmp_path / "cache").train)


def test_corrupt_images_are_left_out_and_counted_the_same_way_everywhere(source, tmp_path, caplog):
    spoil(source)
    loaded = []
    for storage in STORAGES:
        caplog.clear()
        loaded.append(load(config(source, storage=storage, corrupt="skip"), 0, tmp_path / "cache"))
        assert "2 of the images of train are left out" in caplog.text and "003.jpg" in caplog.text
    assert [data.skipped for data in loaded] == [2, 2, 2]
    assert all(len(data.train) + len(data.validation) + len(data.test) == 148 for data in loaded)
    for data in loaded[1:]:
        same(batches(loaded[0].train), batches(data.train))
    again = [load(config(source, storage=storage, corrupt="skip"), 0, tmp_path / "cache") for storage in STORAGES]
    assert [data.skipped for data in again] == [2, 2, 2]
    with pytest.raises(BadInput, match="003.jpg"):  # the arrays of those who skip are none for those who refuse
        load(config(source, storage="cached"), 0, tmp_path / "cache")
    assert load(config(source, storage="memory", corrupt="skip", limit=60), 0, tmp_path / "cache").skipped == 2


def test_a_file_that_vanishes_is_named_and_no_reason_to_skip(source, tmp_path):
    data = load(config(source, storage="streamed", corrupt="skip"), 0, tmp_path / "cache")
    shutil.rmtree(source / "class2")
    with pytest.raises(BadInput, match=r"class2.*has vanished since it was listed.\nPut it back"):
        batches(data.train)


def test_a_disk_without_room_is_seen_before_anything_is_decoded(source, tmp_path, monkeypatch):
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(BadInput, match="GB are needed.*\nMake room there.*dataset.storage=streamed"):
        load(config(source, storage="cached"), 0, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "data").glob(".*.making"))


class Dying(Decoder):
    """Its process is killed when it comes to a row, as often as there are lives left in a file."""

    def __call__(self, rows):
        lives = self.shelf.lives
        if 40 in rows and (left := int(lives.read_text())):
            lives.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows)


def dying(source, tmp_path, lives):
    plain = load(config(source, storage="streamed", workers=2), 0, tmp_path / "cache").train.inputs.store.decoder
    plain.shelf.lives = tmp_path / "lives"
    plain.shelf.lives.write_text(str(lives))
    return plain, Streamed(Dying(plain.shelf, plain.shape, plain.resize), workers=2)


PIECES = torch.arange(96).split(8)


def test_a_worker_that_is_killed_is_replaced_and_no_batch_is_lost(source, tmp_path, caplog):
    plain, store = dying(source, tmp_path, 1)
    found = list(store.stream(PIECES))
    assert len(found) == len(PIECES)
    assert all(torch.equal(found[number], plain(rows.tolist())[0]) for number, rows in enumerate(PIECES))
    assert "a process that decodes images has died" in caplog.text


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_the_command_with_a_message(source, tmp_path):
    _, store = dying(source, tmp_path, 10)
    with pytest.raises(BadInput, match="3 processes that decode images have died"):
        list(store.stream(PIECES))


def test_a_dead_worker_does_not_disturb_what_the_process_is_doing(source, tmp_path):
    """DataLoader's own handler of SIGCHLD would raise in the midst of a training step."""
    before = signal.getsignal(signal.SIGCHLD)
    store = load(config(source, storage="streamed", workers=1), 0, tmp_path / "cache").train.inputs.store
    stream_of = store.stream(PIECES)
    next(stream_of)
    assert signal.getsignal(signal.SIGCHLD) == before
    stream_of.close()


def test_arrays_are_mapped_anew_in_another_process_and_given_back(source, tmp_path, monkeypatch):
    store = load(config(source, storage="cached"), 0, tmp_path / "cache").train.inputs.store
    rows = torch.arange(20)
    before = store.take(rows)
    sent = pickle.dumps(store)
    assert len(sent) < 1000, "the pixels travel with it"
    assert torch.equal(pickle.loads(sent).take(rows), before)
    monkeypatch.setattr(arrays, "KEPT", 500)
    assert torch.equal(store.take(rows), before) and torch.equal(store.take(rows), before)


def test_threads_cut_the_same_windows(source, tmp_path, monkeypatch):
    changes = {"stored": 11, "augment": {"crop": 0, "flip": True}}
    data = load(config(source, storage="cached", **changes), 0, tmp_path / "cache")
    alone = batches(data.train, batch_size=50)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    same(alone, batches(data.train, batch_size=50))
    monkeypatch.setattr(arrays, "LARGE", 1000)
    same(alone, batches(data.train, batch_size=50))
    monkeypatch.setattr(data.train.inputs.store, "path", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="nowhere cannot be opened"):
        pickle.loads(pickle.dumps(data.train.inputs.store)).take(torch.arange(2))


class Idle:
    """Threads that never get to anything."""

    def __init__(self, threads):
        pass

    def submit(self, work, *words):
        return Future()


class Eager(Idle):
    """Threads that do everything before this one begins."""

    def submit(self, work, *words):
        future = Future()
        future.set_result(work(*words))
        return future


@pytest.mark.parametrize("threads", [Idle, Eager])
def test_a_batch_does_not_depend_on_who_gets_to_it(source, tmp_path, monkeypatch, threads):
    changes = {"stored": 11, "augment": {"crop": 0, "flip": True}}
    data = load(config(source, storage="cached", **changes), 0, tmp_path / "cache")
    alone = batches(data.train, batch_size=50)
    monkeypatch.setattr(arrays, "ThreadPoolExecutor", threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    same(alone, batches(load(config(source, storage="cached", **changes), 0, tmp_path / "cache").train, batch_size=50))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(0, 10**6))
def test_mirrored_bytes_are_those_of_a_reversed_view(channels, height, width, seed):
    whole = np.random.default_rng(seed).integers(0, 256, (channels, height + 1, width + 3), dtype=np.uint8)
    part = whole[:, 1:, 2 : 2 + width]  # not contiguous, and not aligned
    np.testing.assert_array_equal(arrays.mirrored(part), part[:, :, ::-1])


def test_blocks_of_memory_come_back_only_when_nobody_looks_at_them(monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 1000)
    arrays.FREE.clear()
    first = arrays.room(4, 250)
    view = first.fill_(1.0)[1:].view(-1)
    place = first.data_ptr()
    del first
    other = arrays.room(4, 250).fill_(2.0)
    assert other.data_ptr() != place and (view == 1).all(), "a view still looks at it"
    del view
    assert arrays.room(2, 500).data_ptr() == place, "a block of the same size is there"


def test_one_process_decodes_and_those_that_wait_find_the_arrays(source, tmp_path, monkeypatch):
    decode, rows_seen = Decoder.__call__, []
    monkeypatch.setattr(Decoder, "__call__", lambda self, rows: (rows_seen.extend(rows), decode(self, rows))[1])
    settings, found = config(source, storage="cached"), []
    threads = [threading.Thread(target=lambda: found.append(load(settings, 0, tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and sorted(rows_seen) == list(range(150))


def test_texts_in_arrays_are_those_that_were_put_in():
    words = ["", "ä/ö.jpg", "n01440764/n01440764_1.JPEG", "\udcff", ""]
    texts = Texts(words)
    assert list(texts) == words and texts[-2] == "\udcff" and texts[1:3] == words[1:3] and len(texts) == 5
    with pytest.raises(IndexError):
        texts[5]


def test_nothing_is_taken_for_arrays_that_is_none(tmp_path, caplog):
    assert open_arrays(tmp_path) is None and not caplog.records
    for content in ("{", "[]", '{"layout": 1, "parts": {"train": 3}}'):
        (tmp_path / "manifest.json").write_text(content)
        with caplog.at_level(logging.WARNING):
            assert open_arrays(tmp_path) is None
    assert caplog.text.count("is damaged") == 3
    assert streaming.Fault(3, "gone", "x").row == 3
