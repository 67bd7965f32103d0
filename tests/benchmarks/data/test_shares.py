"""Several processes of one training: their shares of what is read, by seed and epoch, and after a stop."""

import json
import os
import socket

import numpy as np
import pytest
import torch
import warm
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.data import arrays, streaming
from benchmarks.data.splits import load
from benchmarks.training.trainer import TrainerSettings, fit
from methods.seeds import stream

SEED, EPOCHS, BATCH, SAMPLES = 4, 3, 11, 90  # of 120; 90 = 8 x 11 + 2


def images(folder):
    """120 images in three classes for training, 3 for the test."""
    pixels = np.random.default_rng(0).integers(0, 256, (123, 10, 10, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        place = folder / ("train" if number < 120 else "test") / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03}.png")
    return folder


def data_of(source, cache, storage):
    section = {"name": "mine", "reader": "benchmarks.data.readers.imagefolder", "source": str(source), "classes": 3}
    section |= {"shape": [3, 8, 8], "stored": 10, "levels": 255, "mean": 0.5, "std": 0.25, "validation": 0.25}
    return load(section | {"augment": {"crop": 0, "flip": True}, "storage": storage, "workers": 0}, 0, cache)


def noted(take, read):
    def wrapper(self, rows, *rest):
        read.append(torch.as_tensor(rows).tolist())
        return take(self, rows, *rest)

    return wrapper


def one_of_two(source, folder, storage, stop, rank, port):
    """What torchrun starts twice: trains until epoch ``stop``, and says which training images it has read."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in where.items()}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = data_of(source, folder / "cache", storage)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    settings = TrainerSettings(epochs=EPOCHS, batch_size=BATCH, accelerator="cpu", devices=2, strategy="ddp")
    read = []
    arrays.Mapped.windows = noted(arrays.Mapped.windows, read)
    streaming.Decoder.__call__ = noted(streaming.Decoder.__call__, read)

    def ended(row):
        if row["epoch"] == stop:
            raise KeyboardInterrupt

    try:
        fit(model, data, settings, SEED, checkpoint=folder / f"state-{stop}", on_epoch=ended)
    except KeyboardInterrupt:
        stop = f"{stop}-stopped"
    train = set(data.train.inputs.rows.tolist())
    own = folder / f"{stop}-{rank}"
    own.with_suffix(".json").write_text(json.dumps([rows for rows in read if train.issuperset(rows)]))
    save_file(model.state_dict(), own.with_suffix(".safetensors"))


def both(folder, *words):
    """The rows that two processes have read, and what the network became in each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = [warm.process(one_of_two, folder / "set", folder, *words, rank, port) for rank in range(2)]
    for process in started:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in started] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["cached", "streamed"])
@pytest.mark.cpu("two processes of the CPU share a training")
def test_two_processes_read_disjoint_shares_by_seed_and_epoch_also_after_a_stop(storage, tmp_path):
    source = images(tmp_path / "set")
    data = data_of(source, tmp_path / "cache", storage)
    both(tmp_path, storage, 0)  # epoch 0 never ends: not stopped
    expected = []
    for epoch in range(EPOCHS):
        order = data.train.inputs.rows[torch.randperm(SAMPLES, generator=stream(SEED, "train", epoch))]
        expected.append(order.split(BATCH))
    assert not torch.equal(torch.cat(expected[0]), torch.cat(expected[1]))

    def read(name):
        return [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2)]

    whole = read("0")
    for rank, rows in enumerate(whole):
        assert rows == [part[rank::2].tolist() for batches in expected for part in batches]
    per_epoch = len(whole[0]) // EPOCHS
    for epoch in range(EPOCHS):
        first, second = ({row for rows in own[epoch * per_epoch :][:per_epoch] for row in rows} for own in whole)
        assert not first & second and first | second == set(data.train.inputs.rows.tolist())

    both(tmp_path, storage, 1)
    assert read("1-stopped") == [rows[:per_epoch] for rows in whole]
    both(tmp_path, storage, 1)  # the same command again
    assert read("1") == [rows[per_epoch:] for rows in whole]
    unbroken, resumed, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("0-0", "1-0", "1-1"))
    for name, value in unbroken.items():
        assert torch.equal(value, resumed[name]) and torch.equal(value, other[name])
