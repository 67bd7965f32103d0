"""Where decoded images are kept: in memory, in arrays that all processes of a machine share, or nowhere.

All three give the same samples and the same batches. ``dataset.storage`` names one; else the size decides.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import PIL
import torch
from torch import Tensor

from benchmarks.data.arrays import LAYOUT, MANIFEST, decoded_arrays, open_arrays
from benchmarks.data.pictures import Collection
from benchmarks.data.pixels import Pixels
from benchmarks.data.raw import Raw, hold_out, keep, raw_of, stored_shape
from benchmarks.data.sources.shelf import Shelf
from benchmarks.data.streaming import Decoder, Fault, Streamed, refused
from benchmarks.storage import checkpoint
from methods.errors import BadInput
from methods.progress import track

LOG = logging.getLogger(__name__)
Storage = Literal["memory", "cached", "streamed"]
MEMORY = 2 * 2**30  # bytes of decoded images that are held in memory unless another storage is asked for
ROOM = 0.8  # of the free disk, which the arrays may take unless another storage is asked for
NAMED = 3  # images that a warning names
CHECKING = 64  # images that are tried at a time


def read(collection: Collection, cfg: Mapping[str, Any], cache: Path) -> Raw:
    """The images of a collection as the configuration's ``dataset`` section wants them kept.

    Raises:
        BadInput: an image cannot be decoded and ``dataset.corrupt`` is not ``skip``, or there is no room.
    """
    storage, shelves = _chosen(collection, cfg, cache)
    if storage == "memory":
        return _in_memory(collection, cfg, cache, shelves)
    images = {part: _streamed(shelf, collection, cfg) for part, shelf in shelves.items()}
    skip = cfg.get("corrupt") == "skip"
    if storage == "cached":
        folder = arrays_folder(collection, cache)
        _tell_of_change(folder, cfg)
        parts = decoded_arrays(folder, images, skip)
        stores: dict[str, Any] = {part: found.pixels for part, found in parts.items()}
        faults = {part: found.faults for part, found in parts.items()}
    else:
        stores = dict(images)
        faults = {part: _tried(collection, part, source, cache) if skip else [] for part, source in images.items()}
    tensors: dict[str, Any] = {}
    for part, shelf in shelves.items():
        rows = _sound(len(shelf), faults[part])
        tensors[f"{part}_inputs"] = Pixels(stores[part], rows)
        tensors[f"{part}_targets"] = shelf.targets[rows]
    _tell_of_faults(faults)
    mark = hashlib.sha256("\n".join(f"{part} {shelf.mark()}" for part, shelf in shelves.items()).encode()).hexdigest()
    skipped = sum(map(len, faults.values())) if skip else None
    if "test" not in shelves:
        tensors = hold_out(tensors["train_inputs"], tensors["train_targets"], cfg)
    return Raw(**tensors, origin=collection.origin, checksum=mark, skipped=skipped)


def arrays_folder(collection: Collection, cache: Path) -> Path:
    """The folder of a collection's arrays; it depends on the layout and, since images may be scaled, on Pillow."""
    versions = hashlib.sha256(f"{LAYOUT} {PIL.__version__}".encode()).hexdigest()[:6]
    return cache / "data" / f"{collection.name}-{versions}"


def decoded(collection: Collection, cache: Path) -> bool:
    """Whether the images lie decoded in the cache, so that their source need not be there."""
    return (cache / "data" / f"{collection.name}.json").is_file()


def _chosen(collection: Collection, cfg: Mapping[str, Any], cache: Path) -> tuple[Storage, dict[str, Shelf]]:
    """The storage, and the opened splits where it needs them."""
    asked = cfg.get("storage")
    skip = cfg.get("corrupt") == "skip"
    if asked == "memory" and collection.tensors is not None and not skip:
        return "memory", {}
    if asked is None and decoded(collection, cache) and not skip:
        return "memory", {}
    shelves = {part: opened(False) for part, opened in collection.shelves.items()}
    storage = cast(Storage, asked or _by_size(collection, shelves, cfg, cache))
    if storage == "streamed":
        shelves = {
            part: shelf if shelf.scattered else collection.shelves[part](True) for part, shelf in shelves.items()
        }
    return storage, shelves


def _by_size(collection: Collection, shelves: Mapping[str, Shelf], cfg: Mapping[str, Any], cache: Path) -> Storage:
    size = sum(map(len, shelves.values())) * int(np.prod(stored_shape(cfg)))
    if size <= MEMORY:
        return "memory"
    if open_arrays(arrays_folder(collection, cache)) is not None:
        return "cached"
    place = next(parent for parent in (cache, *cache.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    storage: Storage = "cached" if size <= ROOM * free else "streamed"
    LOG.warning(
        "%s is %.3g GB decoded (%.3g GB are free in %s): dataset.storage=%s",
        cfg["name"],
        size / 1e9,
        free / 1e9,
        place,
        storage,
    )
    return storage


def _streamed(shelf: Shelf, collection: Collection, cfg: Mapping[str, Any]) -> Streamed:
    channels, height, width = stored_shape(cfg)
    return Streamed(Decoder(shelf, (channels, height, width), collection.resize), cfg.get("workers"))


def _sound(count: int, faults: list[Fault]) -> Tensor:
    """Rows whose images could be decoded."""
    whole = torch.ones(count, dtype=torch.bool)
    whole[[fault.row for fault in faults]] = False
    return whole.nonzero()[:, 0]


def _tell_of_faults(faults: Mapping[str, list[Fault]]) -> None:
    for part, found in faults.items():
        if found:
            named = "; ".join(fault.why for fault in found[:NAMED])
            more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
            LOG.warning("%d of the images of %s are left out: %s%s", len(found), part, named, more)


def _tell_of_change(folder: Path, cfg: Mapping[str, Any]) -> None:
    """Say that images have changed since they were decoded; the old arrays stay, and may be deleted."""
    if (folder / MANIFEST).is_file():
        return
    for other in sorted(folder.parent.glob(f"{cfg['name']}-*/{MANIFEST}")):
        LOG.warning(
            "the images of %s are not those that lie decoded in %s (files have changed, or shape or versions): "
            "decoding again; that folder can be deleted",
            cfg["name"],
            other.parent,
        )


def _in_memory(collection: Collection, cfg: Mapping[str, Any], cache: Path, shelves: Mapping[str, Shelf]) -> Raw:
    skip = cfg.get("corrupt") == "skip"
    place, name = cache / "data", collection.name + ("-skip" if skip else "")
    stored = checkpoint.load(place, name)
    if stored is None:  # never written, or damaged since: decode (again)
        if collection.tensors is not None and not skip:
            # Make strides canonical: decoded images of one channel have strides with which kernels round differently
            # than with those that they have after being stored and read again.
            fresh = {name: value.view(-1).view(value.shape) for name, value in collection.tensors().items()}
            skipped: dict[str, Any] = {}
        else:
            fresh, skipped = _tensors(collection, cfg, shelves, skip)
        stored = fresh, keep(place, name, fresh, **skipped)
    tensors, facts = stored
    if "test_inputs" not in tensors:
        raw = raw_of(hold_out(tensors["train_inputs"], tensors["train_targets"], cfg), collection.origin)
        return Raw(**{**vars(raw), "skipped": facts.get("skipped")})
    parts: dict[str, Any] = tensors
    return Raw(**parts, origin=collection.origin, checksum=facts["checksum"], skipped=facts.get("skipped"))


def _tensors(
    collection: Collection, cfg: Mapping[str, Any], shelves: Mapping[str, Shelf], skip: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything decoded into memory by the worker processes, and how many images were left out."""
    tensors, faults = {}, {}
    for part, shelf in shelves.items():
        pieces = torch.arange(len(shelf)).split(CHECKING)
        shown = track(_streamed(shelf, collection, cfg).decoded(pieces), f"decoding {part}", len(pieces))
        images, found = [], []
        for pixels, wrong in shown:
            images.append(pixels)
            found += _only_corrupt(wrong, skip)
        rows = _sound(len(shelf), found)
        tensors[f"{part}_inputs"], tensors[f"{part}_targets"] = torch.cat(images)[rows], shelf.targets[rows]
        faults[part] = found
    _tell_of_faults(faults)
    return tensors, {"skipped": sum(map(len, faults.values()))} if skip else {}


def _only_corrupt(faults: list[Fault], skip: bool) -> list[Fault]:
    for fault in faults:
        if not skip or fault.kind != "corrupt":
            raise refused(fault)
    return faults


def _tried(collection: Collection, part: str, source: Streamed, cache: Path) -> list[Fault]:
    """The images of a split that cannot be decoded: all are tried once, and the cache remembers which fail."""
    place, name = cache / "data", f"{collection.name}-{part}-tried"
    stored = checkpoint.load(place, name)
    if stored is not None:
        return [Fault(*fault) for fault in stored[1]["faults"]]
    pieces = torch.arange(len(source)).split(CHECKING)
    found: list[Fault] = []
    for _, wrong in track(source.decoded(pieces), f"trying the images of {part}", len(pieces)):
        found += _only_corrupt(wrong, skip=True)
    try:
        checkpoint.save(place, name, {}, {"faults": [list(fault) for fault in found]})
    except OSError as error:
        raise BadInput(f"{place} cannot be written: {error}\nSet paths.cache.") from error
    return found
