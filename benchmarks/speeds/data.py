"""Reading images that are not in memory: decoded while training, and from arrays that were decoded once.

The images are JPEG files of 224 to 500 pixels, made here; they are scaled to 144 pixels, and batches of 128 are cut to
128 pixels, mirrored and normalised. The plain ``DataLoader`` decodes with the same function, and cuts,
mirrors and normalises each image in its workers. The memory of training is measured in a process of its own,
with its workers, for two numbers of images, and extrapolated linearly.
"""

import io
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.data.augment import Draws
from benchmarks.data.decode import decoded_image
from benchmarks.data.splits import Data, load
from benchmarks.measure.side_by_side import Finding, Promise, Times, alternate
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import fit
from methods.seeds import stream

STREAMED, CACHED = Promise(ratio=1 / 0.95), Promise(ratio=1 / 20)
MEMORY = Promise(megabytes=1500)
WORKERS, BATCH = 2, 128
STORED, WINDOW = 144, 128
DISTINCT = 64  # images that are really made; the others are links to them
LOOKS = 0.05  # seconds between two looks at the memory
MEASURED, PROMISED = (5_000, 50_000), 200_000  # images whose memory is looked at, and to which the line through it goes


def measure(quick: bool) -> Iterator[Finding]:
    """Time streaming against a plain loader and a cache against streaming; measure decoding and memory."""
    with tempfile.TemporaryDirectory() as folder:
        count = 150 if quick else 3000
        source = images(Path(folder) / "images", count)
        yield from _throughput(source, Path(folder) / "cache", count, quick)
        if not quick:  # it begins processes that import everything
            yield _memory(Path(folder), MEASURED)


def images(folder: Path, count: int) -> Path:
    """JPEG images of 224 to 500 pixels in two classes below train/ and some below test/; links after the first ones."""
    random = np.random.default_rng(0)
    made: list[Path] = []
    for number in range(count):
        place = folder / ("test" if number % 15 == 14 else "train") / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{number:06}.jpg"
        if len(made) < DISTINCT:
            height, width = random.integers(224, 501, 2)
            coarse = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
            noisy = np.asarray(picture).astype(np.int16) + random.integers(-12, 13, (height, width, 3), dtype=np.int16)
            stream_ = io.BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream_, "JPEG", quality=85)
            path.write_bytes(stream_.getvalue())
            made.append(path)
        else:
            path.hardlink_to(made[number % DISTINCT])
    return folder


def section(source: Path, storage: str, window: int = WINDOW, stored: int = STORED) -> dict[str, Any]:
    """The part ``dataset`` of a configuration for these images."""
    return {
        "name": "speed",
        "reader": "benchmarks.data.readers.imagefolder",
        "source": str(source),
        "classes": 2,
        "shape": [3, window, window],
        "stored": stored,
        "levels": 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "augment": {"crop": 0, "flip": True},
        "validation": 0.05,
        "storage": storage,
        "workers": WORKERS,
    }


def _throughput(source: Path, cache: Path, count: int, quick: bool) -> Iterator[Finding]:
    loaded = {storage: load(section(source, storage), 0, cache) for storage in ("streamed", "cached")}
    sums: dict[str, float] = {}

    def epoch(name: str) -> None:
        batches = loaded[name].train.batches(BATCH, generator=stream(0, "speed"), augment=True)
        sums[name] = sum(float(x[0, 0, 0, 0]) for x, _ in batches)

    def plain() -> None:
        sums["plain"] = sum(float(x[0, 0, 0, 0]) for x in _plain_loader(loaded["streamed"]))

    pairs = 1 if quick else 5
    [times] = alternate(lambda: epoch("streamed"), plain, pairs=pairs, warm_up=0 if quick else 1)
    number = len(loaded["streamed"].train)
    what = f"{number:,} JPEG images, {WORKERS} workers"
    spent = _decoding(loaded["streamed"], min(number, 300))
    note = (
        f"{number / times.ours:,.0f} images/s; decoding and scaling take {1e3 * spent:.2f} ms of one core each, so two "
        f"cores can give {2 / spent:,.0f}"
    )
    agree = _close(sums["streamed"], sums["plain"])
    yield Finding(f"streamed: {what}", times, "plain DataLoader", None if quick else STREAMED, agree, note)
    rounds = 1 if quick else 5
    [times] = alternate(lambda: epoch("cached"), lambda: epoch("streamed"), pairs=rounds)
    promise = None if quick else CACHED
    before = time.process_time()
    epoch("cached")
    each = (time.process_time() - before) / number
    note = (
        f"{number / times.ours:,.0f} images/s, cut, mirrored and normalised; {1e6 * each:.0f} µs of one core each; "
        f"decoding and scaling take {spent / each:.0f} times as much"
    )
    agree = sums["cached"] == sums["streamed"]
    yield Finding(f"cached, warm: {what}", times, "streamed", promise, agree, note)


def _plain_loader(data: Data) -> DataLoader[Tensor]:
    """What one would write without this project, over the same images in the same order with the same draws."""
    split, pixels = data.train, _pixels(data)
    generator = stream(0, "speed")
    order = torch.randperm(len(split), generator=generator)
    assert split.augmentation is not None
    draws = [
        split.augmentation.draw(len(part), (STORED, STORED), (WINDOW, WINDOW), generator) for part in order.split(BATCH)
    ]
    shelf = pixels.store.decoder.shelf
    paths = [shelf.place(int(row)) for row in pixels.rows[order]]
    return DataLoader(_Plain(paths, draws, split.mean, split.std), batch_size=BATCH, num_workers=WORKERS)


class _Plain(Dataset[Tensor]):
    def __init__(self, paths: Sequence[str], draws: Sequence[Draws], mean: Any, std: Any) -> None:
        joined = [torch.cat([getattr(each, name) for each in draws]).tolist() for name in ("top", "left", "flip")]
        self.paths, (self.top, self.left, self.flip) = paths, joined
        self.mean, self.std = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        pixels = decoded_image(Path(self.paths[place]), (3, STORED, STORED), True)
        top, left = self.top[place], self.left[place]
        part = pixels[top : top + WINDOW, left : left + WINDOW]
        part = part[:, ::-1] if self.flip[place] else part
        image = torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1))).float().div_(255)
        return image.sub_(self.mean).div_(self.std)


def _decoding(data: Data, count: int) -> float:
    """Seconds of one processor core that reading, decoding and scaling one image take."""
    pixels = _pixels(data)
    decoder, rows = pixels.store.decoder, pixels.rows[:count].tolist()
    before = time.process_time()
    decoder(rows)
    return (time.process_time() - before) / count


def _pixels(data: Data) -> Any:
    """The training images of a set that is streamed."""
    return data.train.inputs


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-3 * max(1.0, abs(second))


def _memory(folder: Path, counts: tuple[int, int]) -> Finding:
    """The largest resident memory of a training that streams, continued to the number that is promised."""
    found, started = [], time.perf_counter()
    for count in counts:
        source = images(folder / f"memory{count}", count)
        found.append(training_memory(source, folder / "cache", steps=20))
    seconds = time.perf_counter() - started
    slope = max(0.0, (found[1] - found[0]) / (counts[1] - counts[0]))
    ahead = found[1] + slope * (PROMISED - counts[1])
    times = Times(seconds, megabytes=ahead)
    note = (
        f"{found[0]:.0f} MB with {counts[0]:,} images, {found[1]:.0f} with {counts[1]:,}, all processes together, so "
        f"{ahead:.0f} MB with {PROMISED:,}"
    )
    what = f"memory of training on {PROMISED:,} streamed images of 224 pixels, {WORKERS} workers"
    return Finding(what, times, "", MEMORY, None, note)


def training_memory(source: Path, cache: Path, steps: int) -> float:
    """The peak memory of a training in megabytes, its workers included; pages that they share count once.

    Args:
        source: a folder of images, which are streamed at 224 pixels.
        cache: the cache of the data.
        steps: batches of 64 that are trained on, before the validation split is scored.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(str(source), str(cache), steps, sender))
    process.start()
    sender.close()
    try:
        return float(receiver.recv())
    finally:
        process.join()


def _train(source: str, cache: str, steps: int, sender: Any) -> None:
    """Load, train some batches, score, and report the memory used, in a process of its own."""
    torch.set_num_threads(1)
    peak, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(LOOKS):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=look)
    thread.start()
    data = load({**section(Path(source), "streamed", 224, 256), "limit": 64 * steps + 64}, 0, Path(cache))
    network = nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    fit(network, data, TrainerSettings(epochs=1, batch_size=64), seed=0)
    stop.set()
    thread.join()
    sender.send(peak[0])


def resident() -> float:
    """Megabytes of this process and of those that it has started; pages that they share count once (Linux)."""
    total = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
