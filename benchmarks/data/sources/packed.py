"""Encoded images one after the other in a flat file of the cache, since Parquet and the hub allow no random access.

A folder holds ``images.bin``, ``ends.npy`` (where each image ends) and ``labels.npy``, and ``manifest.json``, written
last. It is made next to its final place and then renamed; after a kill before that, a process begins again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.data.sources.shelf import Shelf, require_labels
from benchmarks.storage.lease import first_come
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput
from methods.progress import track

FORMAT = 1
MANIFEST = "manifest.json"


class Packed(Shelf):
    """What :func:`pack` has made of a source."""

    def __init__(self, folder: Path, classes: int | None) -> None:
        self.folder = str(folder)
        self._ends = np.load(folder / "ends.npy", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        self.targets = torch.from_numpy(require_labels(labels, classes, folder.name))
        self.identity = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["listing"]

    def read(self, row: int) -> bytes:
        """The encoded image of a row."""
        start, end = int(self._ends[row - 1]) if row else 0, int(self._ends[row])
        with Path(self.folder, "images.bin").open("rb") as file:
            file.seek(start)
            content = file.read(end - start)
        if len(content) != end - start:
            raise OSError(f"it ends before image {row}")
        return content

    def place(self, row: int) -> str:
        """The row of the flat file."""
        return f"image {row} of {Path(self.folder, 'images.bin')}"

    def listing(self) -> Iterator[str]:
        """The listing of the source."""
        yield from self.identity


def pack(
    folder: Path, rows: Callable[[], Iterable[tuple[bytes, int]]], listing: Callable[[], list[str]], total: int | None
) -> None:
    """Write the ``rows`` of a source into ``folder``, unless they are there; one process of the machine does it.

    Args:
        folder: the folder to write; its name should change whenever the source changes.
        rows: gives encoded images and labels.
        listing: returns the listing of the source, once its rows have been read.
        total: how many rows there are, where that is known.

    Raises:
        BadInput: the disk is full, or may not be written.
    """
    label = f"copying the encoded images of {folder.name}"
    with first_come(folder.parent, lambda: _whole(folder), label, name=folder.name) as mine:
        if not mine:
            return
        work = folder.with_name(f".{folder.name}.making")
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _write(work, rows(), listing, label, total)
            work.rename(folder)
        except OSError as error:
            shutil.rmtree(work, ignore_errors=True)
            raise BadInput(
                f"the images cannot be copied to {folder.parent}: {error.strerror or error}\n"
                "Make room there, or set paths.cache=<a folder with more>."
            ) from error


def _write(
    work: Path, rows: Iterable[tuple[bytes, int]], listing: Callable[[], list[str]], label: str, total: int | None
) -> None:
    work.mkdir(parents=True)
    ends, labels, end = [], [], 0
    with (work / "images.bin").open("wb") as file:
        for content, target in track(rows, label, total):
            end += file.write(content)
            ends.append(end)
            labels.append(target)
        file.flush()
        os.fsync(file.fileno())
    np.save(work / "ends.npy", np.array(ends, dtype=np.int64))
    np.save(work / "labels.npy", np.array(labels, dtype=np.int64))
    facts = {"format": FORMAT, "images": len(ends), "bytes": end, "listing": listing()}
    write_atomically(work / MANIFEST, json.dumps(facts))


def _whole(folder: Path) -> bool:
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return facts["format"] == FORMAT and (folder / "images.bin").stat().st_size == facts["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
