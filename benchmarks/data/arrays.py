"""Images decoded once into memory-mapped uint8 arrays that all processes of a machine share.

A folder ``NAME-HASH`` holds, for each split, ``SPLIT.u8`` (N images of C x H x W bytes, one after the other) and
``SPLIT.targets.npy``, and ``manifest.json``, which is written last. The hash is of what was decoded and how. One
process, which holds a lease, decodes into a hidden folder next to the final place; the folder is renamed when complete.
If the process is killed, the next one continues after the last piece that is known to be on the disk.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import shutil
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.augment import Draws
from benchmarks.data.streaming import Fault, Streamed, refused
from benchmarks.storage.lease import first_come
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput
from methods.progress import track

LOG = logging.getLogger(__name__)
LAYOUT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
PIECE = 64  # images that are decoded, written and checked together
SAVED_EVERY = 16  # pieces between two saves of the progress
CHECKED = 2**26  # bytes that are compared with their checksums when the arrays are opened
LARGE = 2**22  # bytes; blocks of memory at least this large are kept for the next batch
PART = 16  # windows that a thread processes at a time
KEPT = 2**28  # bytes of the map that may stay in this process's memory before they are given back
FREE: deque[mmap.mmap] = deque(maxlen=2)  # blocks of memory for the next batches, see room()


class Mapped:
    """Pixels in a file, mapped into memory when they are first asked for.

    Args:
        path: the path of the file.
        count: number of images.
        shape: (C, H, W) of one image.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int]) -> None:
        self.path, self.count, self.shape = str(path), count, shape
        self._open: tuple[mmap.mmap, np.ndarray] | None = None
        self._taken = 0
        self._lock = threading.Lock()
        self._helpers: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        """The state without the map, since another process makes its own."""
        return {"path": self.path, "count": self.count, "shape": self.shape}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as it was made

    def take(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels of some rows, a copy."""
        found = torch.from_numpy(self._array(len(rows))).index_select(0, rows)
        return found

    def stream(self, batches: Sequence[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """The pixels of several batches of rows, in their order."""
        for rows in batches:
            found = self.take(rows)
            yield found.pin_memory() if pin else found

    def windows(self, rows: Tensor, draws: Draws, window: Sequence[int], mean: Tensor, std: Tensor) -> Tensor:
        """(B, C, height, width) float32 windows (raw - mean) / std, cut and mirrored as ``draws`` say.

        Each image goes through all of that while it is in a core's cache; whole batches would go to the main
        memory and back in every step. As many threads share a batch as PyTorch computes with: numpy's loops do not hold
        Python's lock, and unlike PyTorch's own threads these do not spin while other processes need the cores.

        Args:
            rows: (B,) which images.
            draws: where each window lies.
            window: its height and width.
            mean: the mean of raw values, float32; per channel (C, 1, 1), or one for all.
            std: likewise.
        """
        height, width = window
        array = self._array(len(rows))
        cut = room(len(rows), self.shape[0], height, width)
        out, centre, spread = cut.numpy(), mean.numpy(), std.numpy()
        wanted = list(zip(rows.tolist(), draws.top.tolist(), draws.left.tolist(), draws.flip.tolist(), strict=True))

        def fill(parts: Iterator[range]) -> None:
            values = np.empty(out.shape[1:], dtype=np.float32)
            for place in (place for part in parts for place in part):
                row, top, left, flip = wanted[place]
                pixels = array[row, :, top : top + height, left : left + width]
                values[...] = mirrored(pixels) if flip else pixels
                np.subtract(values, centre, out=values)
                np.divide(values, spread, out=out[place])

        self._shared_out(fill, len(rows))
        return cut

    def _shared_out(self, work: Callable[[Iterator[range]], None], count: int) -> None:
        """Do ``work`` on parts of ``range(count)`` in this thread, and in others as far as they get to it.

        A free thread takes the next part, and nothing waits for threads that have not begun: on a busy machine waiting
        can take longer than the work.
        """
        parts = iter([range(first, min(first + PART, count)) for first in range(0, count, PART)])  # one for all threads
        helpers = min(torch.get_num_threads(), -(-count // PART)) - 1
        if helpers > 0 and self._helpers is None:
            self._helpers = ThreadPoolExecutor(os.cpu_count())
        asked = [self._helpers.submit(work, parts) for _ in range(helpers) if self._helpers is not None]
        work(parts)
        for each in asked:
            if not each.cancel():
                each.result()

    def _array(self, rows: int) -> np.ndarray:
        with self._lock:
            if self._open is None:
                self._open = self._opened()
            pages, array = self._open
            self._taken += rows * int(np.prod(self.shape))
            if self._taken > KEPT:  # the system still caches what it can, in memory that all processes share
                pages.madvise(mmap.MADV_DONTNEED)
                self._taken = 0
            return array

    def _opened(self) -> tuple[mmap.mmap, np.ndarray]:
        try:
            with Path(self.path).open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise BadInput(f"{self.path} cannot be opened ({error}); the same command makes it again") from error
        return pages, np.frombuffer(pages, dtype=np.uint8).reshape(self.count, *self.shape)


def mirrored(pixels: np.ndarray) -> np.ndarray:
    """Bytes (C, H, W) left to right; eight at a time where rows can be cut into eights, since one by one is slow."""
    if pixels.shape[-1] % 8:
        return pixels[..., ::-1]
    eights = np.ascontiguousarray(pixels).view(np.uint64)[..., ::-1]
    return eights.byteswap().view(np.uint8)


def room(*shape: int) -> Tensor:
    """An uninitialised float32 tensor; a large one gets large memory pages, which are reused when it is freed.

    The default allocator requests large blocks from the system each time, which takes as long as filling them.
    """
    size = 4 * int(np.prod(shape))
    if size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape)
    for pages in list(FREE):
        with suppress(ValueError):  # another thread has it
            if len(pages) == size:
                FREE.remove(pages)
                break
    else:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a system without large pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    lent = memoryview(pages)  # kept alive by the tensor and its views, as long as one of them exists
    weakref.finalize(lent, FREE.append, pages).atexit = False
    return torch.frombuffer(lent, dtype=torch.float32).view(shape)


@dataclass(frozen=True)
class Part:
    """One split of the arrays: pixels, labels, and the rows whose images could not be decoded."""

    pixels: Mapped
    targets: Tensor
    faults: list[Fault] = field(default_factory=list)


def open_arrays(folder: Path) -> dict[str, Part] | None:
    """What was decoded into ``folder``; None where nothing is there, or, with a warning, where it is damaged.

    All sizes are compared, and the checksums of pieces spread over the file, ``CHECKED`` bytes in all.
    """
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if facts["layout"] != LAYOUT:
            return None
        return {name: _part(folder, name, part) for name, part in facts["parts"].items()}
    except FileNotFoundError as error:
        if error.filename == str(folder / MANIFEST):
            return None
        reason: Exception = error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error
    LOG.warning("%s is damaged (%s); decoding afresh", folder, reason)
    return None


def _part(folder: Path, name: str, facts: Mapping[str, Any]) -> Part:
    path, shape, count = folder / f"{name}.u8", tuple(facts["shape"]), facts["images"]
    size = count * int(np.prod(shape))
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {size}")
    sums, length = facts["checksums"], facts["piece"] * int(np.prod(shape))
    some = max(1, min(len(sums), CHECKED // length))
    with path.open("rb") as file:
        for piece in sorted({int(each) for each in np.linspace(0, len(sums) - 1, some)} if sums else ()):
            file.seek(piece * length)
            if zlib.crc32(file.read(length)) != sums[piece]:
                raise ValueError(f"{path.name} does not have its checksum at image {piece * facts['piece']}")
    targets = torch.from_numpy(np.load(folder / f"{name}.targets.npy", allow_pickle=False))
    if len(targets) != count:
        raise ValueError(f"{name}.targets.npy has {len(targets)} labels, not {count}")
    return Part(Mapped(path, count, shape), targets, [Fault(*fault) for fault in facts["faults"]])


def decoded_arrays(folder: Path, sources: Mapping[str, Streamed], skip: bool) -> dict[str, Part]:
    """The arrays in ``folder``, decoded now if they are not there; of several processes, only one decodes.

    Args:
        folder: where they lie; its name should change whenever the sources or the decoding change.
        sources: the images of each split.
        skip: leave out images that cannot be decoded; otherwise they are refused.

    Raises:
        BadInput: an image cannot be read, or the disk has not enough room.
    """
    found = open_arrays(folder)
    label = f"decoding {folder.name}"
    while found is None:
        with first_come(
            folder.parent, lambda: (folder / MANIFEST).is_file() and bool(open_arrays(folder)), label, name=folder.name
        ) as mine:
            if mine:
                _decode(folder, sources, skip)
        found = open_arrays(folder)
    if not skip:
        for part in found.values():
            for fault in part.faults:
                raise refused(fault)
    return found


def _decode(folder: Path, sources: Mapping[str, Streamed], skip: bool) -> None:
    work = folder.with_name(f".{folder.name}.making")
    work.mkdir(parents=True, exist_ok=True)
    progress = _progress(work)
    need = sum(len(source) * int(np.prod(source.shape)) for source in sources.values())
    done = sum(path.stat().st_size for path in work.glob("*.u8"))
    free = shutil.disk_usage(work).free
    if need - done > free:
        shutil.rmtree(work, ignore_errors=True)
        raise _no_room(folder, f"{need / 1e9:.3g} GB are needed, {(free + done) / 1e9:.3g} are free")
    parts = {}
    try:
        for name, source in sources.items():
            parts[name] = _decode_part(work, name, source, skip, progress)
            np.save(work / f"{name}.targets.npy", source.decoder.shelf.targets.numpy())
        write_atomically(work / MANIFEST, json.dumps({"layout": LAYOUT, "parts": parts}))
        (work / PROGRESS).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # if it was there but damaged
        work.rename(folder)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise _no_room(folder, error.strerror or str(error)) from error


def _no_room(folder: Path, why: str) -> BadInput:
    return BadInput(
        f"the decoded images of {folder.name} cannot be written to {folder.parent}: {why}\n"
        "Make room there, set paths.cache=<a folder with more>, or decode while training: dataset.storage=streamed."
    )


def _progress(work: Path) -> dict[str, Any]:
    """The finished part of an interrupted decoding: checksums and faults of each split."""
    try:
        facts = json.loads((work / PROGRESS).read_text(encoding="utf-8"))
        if facts["layout"] == LAYOUT:
            return dict(facts["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _decode_part(work: Path, name: str, source: Streamed, skip: bool, progress: dict[str, Any]) -> dict[str, Any]:
    """Write one split's pixels, after the pieces that an earlier process has finished."""
    fresh = {"shape": list(source.shape), "images": len(source), "piece": PIECE, "checksums": [], "faults": []}
    facts: dict[str, Any] = progress.setdefault(name, fresh)
    if any(facts.get(key) != fresh[key] for key in ("shape", "images", "piece")):
        facts |= fresh
    length = PIECE * int(np.prod(source.shape))
    path = work / f"{name}.u8"
    if not path.is_file() or path.stat().st_size < min(len(facts["checksums"]) * length, len(source) * length // PIECE):
        facts["checksums"], facts["faults"] = [], []
    pieces = torch.arange(len(source)).split(PIECE)[len(facts["checksums"]) :]
    if not pieces:
        path.touch()
        return facts
    if facts["checksums"]:
        LOG.warning("going on with %s after %d images", work.name.strip("."), len(facts["checksums"]) * PIECE)
    with path.open("r+b" if path.is_file() else "xb") as file:
        file.truncate(len(facts["checksums"]) * length)
        file.seek(0, os.SEEK_END)
        shown = track(source.decoded(pieces), f"decoding {name}, pieces of {PIECE} images", len(pieces))
        for number, (pixels, faults) in enumerate(shown, 1):
            if serious := [fault for fault in faults if not skip or fault.kind != "corrupt"]:
                _note(work, file, progress)
                raise refused(serious[0])
            content = pixels.numpy().tobytes()
            file.write(content)
            facts["checksums"].append(zlib.crc32(content))
            facts["faults"] += [list(fault) for fault in faults]
            if number % SAVED_EVERY == 0:
                _note(work, file, progress)
        _note(work, file, progress)
    return facts


def _note(work: Path, file: Any, progress: Mapping[str, Any]) -> None:
    """Save the progress of the decoding, once everything up to there is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    write_atomically(work / PROGRESS, json.dumps({"layout": LAYOUT, "parts": progress}))
