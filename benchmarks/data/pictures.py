"""Collections of images: which files, tables, shards or repository a data set is, before any image is decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.data import decode
from benchmarks.data import imagefolder as folders
from benchmarks.data.raw import stored_shape
from benchmarks.data.sources.files import Files
from benchmarks.data.sources.hub import HubRows, rows_as_they_come
from benchmarks.data.sources.packed import Packed, pack
from benchmarks.data.sources.parquet import ParquetRows
from benchmarks.data.sources.shelf import Shelf
from benchmarks.data.sources.tar import TarRows
from benchmarks.data.sources.tar import shards as found_shards
from methods.errors import BadInput

DECODING = 1  # increased when decoding changes, so that older caches are not used
DATA_VARIABLE = "SECATEURS_DATA"

Hub = tuple[str, str | None, str, str | None]  # repository, subset, split, revision


@dataclass(frozen=True)
class Collection:
    """The encoded images of a data set.

    Attributes:
        name: the name under which they are cached once decoded; it differs where the source or the decoding does.
        origin: what a record says about where they come from.
        shelves: for each split (train, test, perhaps validation) what opens it. Opened with ``scattered=True`` it can
            be read at random.
        resize: whether images of any size are cut and scaled.
        tensors: decodes everything into memory, where there is a special way to do so.
        hub: where the training split lies on the hub, if it comes from there.
    """

    name: str
    origin: str
    shelves: Mapping[str, Callable[[bool], Shelf]]
    resize: bool = True
    tensors: Callable[[], dict[str, Tensor]] | None = None
    hub: Hub | None = None


def tables(cfg: Mapping[str, Any], cache: Path) -> Collection:
    """Images in the hub's Parquet layout: of ``dataset.source``, else below $SECATEURS_DATA, else of the hub.

    Raises:
        BadInput: there is no such folder, it holds no such files, or nothing is named.
    """
    require_own_name(cfg, "hub")
    resize = bool(cfg.get("resize"))
    shape = stored_shape(cfg)
    columns = decode.Columns(cfg["image_column"], cfg["label_column"], shape, cfg["classes"], resize)  # type: ignore[arg-type]  # three of them
    names = {part: cfg.get(f"{part}_split") or part for part in ("train", "test")}
    folder = folder_or_hub(cfg)
    files: dict[str, list[Path]] = {}
    if folder is None:
        subset = f" {cfg['subset']}" if cfg.get("subset") else ""
        origin = f"hub {cfg['hub']}{subset}" + (f"@{cfg['revision']}" if cfg.get("revision") else "")
        identity = origin
    else:
        origin = f"folder {folder.name}"
        files = {part: decode.parquet_files(folder, split) for part, split in names.items()}
        identity = _listing(folder, [path for paths in files.values() for path in paths])
    if resize or list(names.values()) != list(names):
        identity += f"\nresize={resize} {names}"
    key = hashlib.sha256(f"{DECODING}\n{columns}\n{identity}".encode()).hexdigest()[:16]
    name = f"{cfg['name']}-{key}"

    def tensors() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for part, split in names.items():
            if folder is None:
                decoded = decode.decode_hub(cfg["hub"], cfg.get("revision"), split, columns, cfg.get("subset"))
            else:
                decoded = decode.decode_folder(folder, split, columns)
            found[f"{part}_inputs"], found[f"{part}_targets"] = decoded
        return found

    def shelf(part: str) -> Callable[[bool], Shelf]:
        place = Path(cache) / "data" / f"{name}-{part}-encoded"
        if folder is not None:
            return lambda scattered: (
                _packed(place, ParquetRows(files[part], columns), columns)
                if scattered
                else ParquetRows(files[part], columns)
            )
        hub = (cfg["hub"], cfg.get("subset"), names[part], cfg.get("revision"))
        if not cfg.get("hub_streaming"):
            return lambda _: HubRows(*hub, columns)

        def streamed(_: bool) -> Shelf:
            pack(place, lambda: rows_as_they_come(*hub, columns), lambda: [" ".join(map(str, hub))], None)
            return Packed(place, columns.classes)

        return streamed

    hub = None if folder is not None else (cfg["hub"], cfg.get("subset"), names["train"], cfg.get("revision"))
    return Collection(name, origin, {part: shelf(part) for part in names}, resize, tensors, hub)


def gathered(cfg: Mapping[str, Any], cache: Path) -> Collection:
    """The images of a named data set, in any supported form in its folder; without a folder, those of the hub.

    Raises:
        BadInput: there is no such folder, or it has no known layout.
    """
    folder = folder_or_hub(cfg)
    if folder is None or any(folder.rglob("*.parquet")):
        return tables(cfg, cache)
    if any(folder.rglob("*.tar")):
        return shards({**cfg, "source": str(folder)}, cache)
    return files({**cfg, "source": str(folder)})


def files(cfg: Mapping[str, Any]) -> Collection:
    """Image files in one folder per class, or as ILSVRC and Tiny ImageNet have them.

    Raises:
        BadInput: there is no such folder, or none in such a layout.
    """
    root = own_folder(cfg)
    parts = folders.find(root)
    names = list(parts["train"])
    shape = stored_shape(cfg)
    listed = [path for found in parts.values() for paths in found.values() for path in paths]
    text = f"imagefolder {DECODING}\n{shape}\n{_listing(root, listed)}"

    def tensors() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for part, own in parts.items():
            found[f"{part}_inputs"], found[f"{part}_targets"] = folders.decode(own, names, shape)  # type: ignore[arg-type]  # three of them
        return found

    def shelf(part: str) -> Callable[[bool], Shelf]:
        label = {name: place for place, name in enumerate(names)}
        pairs = [(path, label[name]) for name, paths in parts[part].items() for path in paths]
        return lambda _: Files(root, [path for path, _ in pairs], [place for _, place in pairs])

    name = f"{cfg['name']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return Collection(name, f"folder {root.name}", {part: shelf(part) for part in parts}, True, tensors)


def shards(cfg: Mapping[str, Any], cache: Path) -> Collection:
    """Images in tar shards as WebDataset has them.

    Raises:
        BadInput: there is no such folder, or it holds no shards for training and testing.
    """
    root = own_folder(cfg)
    parts = found_shards(root)
    shape = stored_shape(cfg)
    listing = _listing(root, [path for paths in parts.values() for path in paths])
    text = f"shards {DECODING}\n{shape}\n{listing}"
    name = f"{cfg['name']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    index = f"index-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"

    def shelf(part: str) -> Callable[[bool], Shelf]:
        return lambda _: TarRows(parts[part], cfg["classes"], (Path(cache) / "data", f"{index}-{part}"))

    return Collection(name, f"folder {root.name}", {part: shelf(part) for part in parts})


def _packed(place: Path, source: ParquetRows, columns: decode.Columns) -> Shelf:
    def rows() -> Iterable[tuple[bytes, int]]:
        return ((source.read(row), int(label)) for row, label in enumerate(source.targets))

    pack(place, rows, lambda: list(source.listing()), len(source))
    return Packed(place, columns.classes)


def require_own_name(cfg: Mapping[str, Any], choice: str) -> None:
    """Require that a user's data set has a name of its own, since records name data sets and not their folders.

    Raises:
        BadInput: the name is that of the choice, which stands for any data set.
    """
    if cfg["name"] == choice:
        raise BadInput(
            f"dataset={choice} stands for any data set; give yours a name, which is part of every result's key\n"
            "type for instance dataset.name=flowers"
        )


def own_folder(cfg: Mapping[str, Any]) -> Path:
    """The folder of images that ``dataset.source`` names, or that lies below $SECATEURS_DATA.

    Raises:
        BadInput: none is named, or there is no such folder.
    """
    choice = "shards" if str(cfg["reader"]).endswith(".shards") else "imagefolder"
    require_own_name(cfg, choice)
    root = os.environ.get(DATA_VARIABLE)
    if not cfg.get("source") and root and (Path(root).expanduser() / cfg["name"]).is_dir():
        return folders.safe_root(Path(root).expanduser() / cfg["name"])
    if not cfg.get("source"):
        what = "tar shards" if choice == "shards" else "one folder of images per class"
        raise BadInput(
            f"dataset={choice} needs the folder with {what}\ntype dataset.source=<folder> dataset.name=<its name>"
        )
    return folders.safe_root(Path(cfg["source"]).expanduser())


def folder_or_hub(cfg: Mapping[str, Any]) -> Path | None:
    """The data set's own folder; None for a repository of the hub.

    Raises:
        BadInput: neither is named, or there is no such folder.
    """
    folder = source_folder(cfg)
    if folder is None and not cfg.get("hub"):
        raise BadInput(
            "dataset.hub names no repository of the Hugging Face hub, and dataset.source no folder\n"
            "type for instance dataset.hub=uoft-cs/cifar100 dataset.label_column=fine_label dataset.name=cifar100, or "
            "dataset.source=<folder of images>"
        )
    return folder


def _listing(root: Path, files: Iterable[Path]) -> str:
    stats = [(path.relative_to(root).as_posix(), path.stat()) for path in files]
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)


def source_folder(cfg: Mapping[str, Any]) -> Path | None:
    """The local folder that holds the data set, or ``None`` where it is to come from the hub."""
    if cfg.get("source"):
        folder, asked = Path(cfg["source"]).expanduser(), f"dataset.source={cfg['source']}"
        advice = "Set dataset.source to the folder with the Parquet files; a repository of the hub is dataset.hub=<it>."
    elif os.environ.get(DATA_VARIABLE):
        root = os.environ[DATA_VARIABLE]
        folder, asked = Path(root).expanduser() / cfg["name"], f"{DATA_VARIABLE}={root}"
        advice = f"Put a folder '{cfg['name']}' there, set dataset.source=<folder>, or unset {DATA_VARIABLE} (hub)."
    else:
        return None
    if not folder.is_dir():
        missing = "is not a folder" if folder.exists() else "does not exist"
        raise BadInput(f"the data folder {folder} ({asked}) {missing}.\n{advice}")
    return folder
