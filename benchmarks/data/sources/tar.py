"""Images in tar shards as WebDataset has them: the files of one sample share the name before the first dot.

``000017.jpg`` with ``000017.cls`` (the class, in digits) or ``000017.json`` (with ``"label"``). Shards are read where
they are, nothing is unpacked; a shard must not be compressed.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.data.sources.shelf import Shelf, require_labels
from benchmarks.storage import checkpoint
from methods.errors import BadInput, first_line
from methods.progress import track

IMAGES = frozenset({"png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff", "ppm", "pgm", "gif", "img"})
LABELS = ("cls", "json")
MOST_DIGITS = 1000  # bytes of a .cls file; what is longer is something else
MOST_JSON = 10**6
LAYOUT = "expected tar shards train*.tar and test*.tar (or val*.tar), or folders train/ and test/ with shards"
SPLITS = {"train": r"train", "test": r"test", "validation": r"val|valid|validation|dev"}


def shards(root: Path) -> dict[str, list[Path]]:
    """The shards of each split below ``root``: by their own name, or by that of the folder that they lie in.

    ``val`` is the validation split if there is ``test``, and else the test split.

    Raises:
        BadInput: there are none for training or for testing, or they are compressed.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.tar*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix != ".tar":
            raise BadInput(f"{path} is compressed; tar shards are read where they are: unpack it to {path.stem}.")
        if not path.resolve().is_relative_to(root):
            raise BadInput(f"{path} is a link that leads out of {root}; copy what it points to into the folder.")
        words = (path.relative_to(root).parts[0], path.name) if path.parent != root else (path.name,)
        for split, pattern in SPLITS.items():
            if any(re.match(rf"(?:\w*[-_])?(?:{pattern})(?![a-z])", word.lower()) for word in words):
                found.setdefault(split, []).append(path)
                break
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    if missing := [split for split in ("train", "test") if split not in found]:
        raise BadInput(f"{root} has no shards for {' and '.join(missing)}; {LAYOUT}.")
    return found


class TarRows(Shelf):
    """The samples of several tar shards, in the order in which they lie there.

    Args:
        files: the shards, in their order.
        classes: number of classes; None takes any labels from 0 on.
        index: folder and name under which the places of the samples are kept, since finding them takes a look at the
            head of every file in the shards; the name should change whenever the shards do.
    """

    def __init__(self, files: Sequence[Path], classes: int | None, index: tuple[Path, str]) -> None:
        self.files = [str(path) for path in files]
        stored = checkpoint.load(*index)
        if stored is None:
            rows = [
                row for number, path in enumerate(track(files, "looking through shards")) for row in _rows(path, number)
            ]
            table = torch.tensor(rows, dtype=torch.int64).view(-1, 4)
            checkpoint.save(*index, {"table": table}, {})
        else:
            table = stored[0]["table"]
        if not len(table):
            raise BadInput(
                f"{self.files[0]} holds no images with labels; expected NAME.jpg beside NAME.cls or NAME.json"
            )
        labels = require_labels(table[:, 3].numpy(), classes, f"{Path(self.files[0]).name} and the shards after it")
        self._table, self.targets = table[:, :3].numpy(), torch.from_numpy(np.ascontiguousarray(labels))

    def read(self, row: int) -> bytes:
        """The bytes of the image's file, out of the middle of the shard."""
        number, offset, size = self._table[row].tolist()
        with Path(self.files[number]).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise OSError(f"it ends before the image at byte {offset}")
        return content

    def place(self, row: int) -> str:
        """The shard, and where the image begins in it."""
        number, offset, _ = self._table[row].tolist()
        return f"the image at byte {offset} of {self.files[number]}"

    def listing(self) -> Iterator[str]:
        """Names and sizes of the shards."""
        for path in map(Path, self.files):
            yield f"{path.name} {path.stat().st_size}"


def _rows(path: Path, number: int) -> Iterator[tuple[int, int, int, int]]:
    """Shard, offset, size and label of every sample of a shard."""
    key, parts = "", dict[str, tarfile.TarInfo]()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if (own := f"{folder}/{stem}") != key:
                    yield from _sample(shard, parts, key, path, number)
                    key, parts = own, {}
                parts[kind.lower()] = member
            yield from _sample(shard, parts, key, path, number)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(
            f"{path} cannot be read as a tar shard: {first_line(error)}\n"
            "It is truncated or something else; get it again."
        ) from error


def _sample(
    shard: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], key: str, path: Path, number: int
) -> Iterator[tuple[int, int, int, int]]:
    image = next((member for kind, member in parts.items() if kind in IMAGES), None)
    if image is None:
        return
    yield number, image.offset_data, image.size, _label(shard, parts, f"{key.lstrip('/')} in {path}")


def _label(shard: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], where: str) -> int:
    kind = next((kind for kind in LABELS if kind in parts), None)
    if kind is None:
        raise BadInput(f'{where} has no label; expected a file .cls with the class in digits, or .json with "label".')
    member = parts[kind]
    file = shard.extractfile(member)
    content = (
        file.read(MOST_JSON)
        if file is not None and member.size <= (MOST_DIGITS if kind == "cls" else MOST_JSON)
        else b""
    )
    try:
        found = json.loads(content)["label"] if kind == "json" else int(content)
    except (ValueError, KeyError, TypeError):
        found = None
    if type(found) is not int or not 0 <= found < 2**31:
        raise BadInput(
            f"{where}: its .{kind} has no label; expected " + ("digits" if kind == "cls" else 'a whole number "label"')
        )
    return found
