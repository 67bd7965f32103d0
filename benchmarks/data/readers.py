"""Where data sets come from: one function per source, named by ``dataset.reader`` in the configuration.

A reader takes the data set's configuration and the cache folder and returns everything as raw tensors. Its test split
is the same for every seed, so that cells of different seeds are tested on the same samples.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.storage import checkpoint
from methods.errors import BadInput, first_line
from methods.seeds import stream

if TYPE_CHECKING:
    from benchmarks.data.decode import Columns

DECODING = 1  # raised when decoding changes, so that caches written before are not taken
DATA_VARIABLE = "SECATEURS_DATA"


Reader = Callable[[Mapping[str, Any], Path], "Raw"]


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as it was read: inputs (N, ...) and targets of its splits, where from, and a checksum of it all.

    Validation is a split of its own only where the data set has one; else it is drawn from the training split.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    origin: str
    checksum: str
    validation_inputs: Tensor | None = None
    validation_targets: Tensor | None = None


def digits(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """scikit-learn's embedded handwritten digits: 1797 images (1, 8, 8) with 17 grey levels, 0 … 16."""
    return _raw(_hold_out(*_all_digits(), cfg), "scikit-learn load_digits")


@functools.cache
def _all_digits() -> tuple[Tensor, Tensor]:
    """What ``sklearn.datasets.load_digits`` reads, without importing it: that takes longer than many a cell.

    Read once per process: it is a text file, and the cells of a sweep are many.
    """
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None  # it is among our requirements
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
    return torch.from_numpy(table[:, :64]).view(-1, 1, 8, 8), torch.from_numpy(table[:, 64]).long()


def images(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Images in the hub's Parquet layout: from ``dataset.source``, else below $SECATEURS_DATA, else from the hub."""
    from benchmarks.data import decode

    found = _found_images(cfg)
    stored = checkpoint.load(cache / "data", found.name)
    if stored is None:  # never written, or damaged since: decode (again)
        tensors: dict[str, Tensor] = {}
        for part, split in found.splits.items():
            if found.folder is None:
                decoded = decode.decode_hub(cfg["hub"], cfg.get("revision"), split, found.columns, cfg.get("subset"))
            else:
                decoded = decode.decode_folder(found.folder, split, found.columns)
            tensors[f"{part}_inputs"], tensors[f"{part}_targets"] = decoded
        stored = tensors, _store(cache / "data", found.name, tensors)
    return Raw(**stored[0], origin=found.origin, checksum=stored[1]["checksum"])


@dataclass(frozen=True)
class _Images:
    """Where images come from (``folder`` is None for the hub), and the name under which they are cached, decoded."""

    folder: Path | None
    columns: "Columns"
    splits: dict[str, str]
    origin: str
    name: str


def _found_images(cfg: Mapping[str, Any]) -> _Images:
    from benchmarks.data import decode

    _require_own_name(cfg, "hub")
    resize = bool(cfg.get("resize"))
    columns = decode.Columns(cfg["image_column"], cfg["label_column"], tuple(cfg["shape"]), cfg["classes"], resize)
    names = {part: cfg.get(f"{part}_split") or part for part in ("train", "test")}
    folder = _folder_or_hub(cfg)
    if folder is None:
        subset = f" {cfg['subset']}" if cfg.get("subset") else ""
        origin = f"hub {cfg['hub']}{subset}" + (f"@{cfg['revision']}" if cfg.get("revision") else "")
        identity = origin
    else:
        origin = f"folder {folder.name}"
        files = [path for split in names.values() for path in decode.parquet_files(folder, split)]
        identity = _listing(folder, files)
    if resize or list(names.values()) != list(names):
        identity += f"\nresize={resize} {names}"
    key = hashlib.sha256(f"{DECODING}\n{columns}\n{identity}".encode()).hexdigest()[:16]
    return _Images(folder, columns, names, origin, f"{cfg['name']}-{key}")


def imagefolder(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Image files in one folder per class: below ``train``, ``test``, ``val``, or all together and held out here."""
    from benchmarks.data import imagefolder as folders

    root = _own_folder(cfg)
    parts = folders.find(root)
    names = list(parts["train"])
    listed = [path for files in parts.values() for paths in files.values() for path in paths]
    shape = tuple(cfg["shape"])
    text = f"imagefolder {DECODING}\n{shape}\n{_listing(root, listed)}"
    place, name = cache / "data", f"{cfg['name']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    stored = checkpoint.load(place, name)
    if stored is None:
        tensors = {}
        for part, files in parts.items():
            tensors[f"{part}_inputs"], tensors[f"{part}_targets"] = folders.decode(files, names, shape)
        stored = tensors, _store(place, name, tensors)
    tensors, origin = stored[0], f"folder {root.name}"
    if "test" not in parts:
        return _raw(_hold_out(tensors["train_inputs"], tensors["train_targets"], cfg), origin)
    return Raw(**tensors, origin=origin, checksum=stored[1]["checksum"])


def _require_own_name(cfg: Mapping[str, Any], choice: str) -> None:
    """A record names its data set, not the place it lay in: two of a user's sets must not share a name."""
    if cfg["name"] == choice:
        raise BadInput(
            f"dataset={choice} stands for any data set; give yours a name, which is part of every result's key\n"
            "type for instance dataset.name=flowers"
        )


def refuse_unreadable(cfg: Mapping[str, Any], cache: Path) -> None:
    """Refuse what cannot be read, as far as that is known without reading: missing folders, names, readers, the hub.

    Raises:
        BadInput: says what is missing and what to type.
    """
    reader = reader_of(cfg)
    if reader is images:
        _refuse_missing_images(cfg, cache)
    elif reader is image_sequences:
        _refuse_missing_images({**cfg, "name": cfg["images"], "shape": cfg["image_shape"]}, cache)
    elif reader is imagefolder:
        _own_folder(cfg)


def _refuse_missing_images(cfg: Mapping[str, Any], cache: Path) -> None:
    found = _found_images(cfg)
    if found.folder is None and not (cache / "data" / f"{found.name}.json").is_file():
        from benchmarks.data.hub import refuse_unreachable

        refuse_unreachable(cfg["hub"], cfg.get("subset"), found.splits["train"], cfg.get("revision"))


def reader_of(cfg: Mapping[str, Any]) -> Reader:
    """The function that ``dataset.reader`` names.

    Raises:
        BadInput: it cannot be imported.
    """
    from hydra.utils import get_method

    try:
        found: Reader = get_method(cfg["reader"])
        return found
    except Exception as error:  # whatever importing a user's module raises
        raise BadInput(
            f"dataset.reader={cfg['reader']} cannot be imported ({first_line(error)})\n"
            "expected package.function, for instance benchmarks.data.readers.images"
        ) from error


def _folder_or_hub(cfg: Mapping[str, Any]) -> Path | None:
    """The data set's own folder; None for a repository of the hub."""
    folder = source_folder(cfg)
    if folder is None and not cfg.get("hub"):
        raise BadInput(
            "dataset.hub names no repository of the Hugging Face hub, and dataset.source no folder\n"
            "type for instance dataset.hub=uoft-cs/cifar100 dataset.label_column=fine_label dataset.name=cifar100"
        )
    return folder


def _own_folder(cfg: Mapping[str, Any]) -> Path:
    from benchmarks.data.imagefolder import safe_root

    _require_own_name(cfg, "imagefolder")
    if not cfg.get("source"):
        raise BadInput(
            "dataset=imagefolder needs the folder with one folder of images per class\n"
            "type dataset.source=<folder> dataset.name=<its name>"
        )
    return safe_root(Path(cfg["source"]).expanduser())


def _listing(root: Path, files: Iterable[Path]) -> str:
    stats = [(path.relative_to(root).as_posix(), path.stat()) for path in files]
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)


def image_sequences(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """The images of another data set as sequences (steps, inputs per step), row by row.

    ``cfg.pool`` averages squares of pixels first (rounded to whole grey levels); channels of a pixel are its inputs.
    """
    raw = images({**cfg, "name": cfg["images"], "shape": cfg["image_shape"]}, cache)
    views = {f"{part}_inputs": _as_sequence(getattr(raw, f"{part}_inputs"), cfg) for part in ("train", "test")}
    return Raw(
        **views,
        train_targets=raw.train_targets,
        test_targets=raw.test_targets,
        origin=f"{raw.origin}, as sequences",
        checksum=raw.checksum,
    )


def _as_sequence(pictures: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    pool, (steps, width) = cfg["pool"], cfg["shape"]
    count, channels, height, columns = pictures.shape
    pixels = channels * (height // pool) * (columns // pool) if pool >= 1 else 0
    if pool < 1 or height % pool or columns % pool or steps * width != pixels:
        raise BadInput(
            f"dataset.pool={pool} and dataset.shape={list(cfg['shape'])} do not fit images of {channels}x{height}x"
            f"{columns}; expected steps x inputs = all values, for instance dataset=row_mnist as it is."
        )
    if pool > 1:
        squares = pictures.reshape(count, channels, height // pool, pool, columns // pool, pool)
        pictures = squares.float().mean((3, 5)).round().to(pictures.dtype)
    return pictures.permute(0, 2, 3, 1).reshape(count, steps, width).contiguous()


def friedman1(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Friedman's first regression problem: 10 sin(π x₁ x₂) + 20 (x₃ − ½)² + 10 x₄ + 5 x₅ + noise, x uniform.

    The samples are the same for every seed. Inputs beyond the fifth carry no information.
    """
    from sklearn.datasets import make_friedman1

    if cfg["shape"][0] < 5 or cfg["samples"] < 10:
        raise BadInput(
            f"dataset.shape={list(cfg['shape'])}, dataset.samples={cfg['samples']}; Friedman's problem has at least 5 "
            "inputs, for instance dataset.shape=[8], and needs at least 10 samples."
        )
    inputs, targets = make_friedman1(cfg["samples"], cfg["shape"][0], noise=cfg["noise"], random_state=0)
    return _tabular(inputs, targets, cfg, "scikit-learn make_friedman1")


def california_housing(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """California housing: 20,640 block groups of the 1990 census, 8 inputs, median house value; downloaded once."""
    from sklearn.datasets import fetch_california_housing

    try:
        bunch = fetch_california_housing(data_home=str(cache / "data" / "scikit-learn"), n_retries=1)
    except OSError as error:
        raise BadInput(
            f"California housing cannot be downloaded by scikit-learn: {error}\n"
            "Go online once, or choose dataset=friedman1, a regression problem of the same size that needs no download."
        ) from error
    return _tabular(bunch.data, bunch.target, cfg, "scikit-learn fetch_california_housing")


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


def _store(place: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    facts = {"checksum": _checksum(tensors)}
    try:
        checkpoint.save(place, name, tensors, facts)
    except OSError as error:
        raise BadInput(f"the decoded data cannot be written to {place}: {error}\nSet paths.cache.") from error
    return facts


def _checksum(tensors: dict[str, Tensor]) -> str:
    return checkpoint.checksum(checkpoint.to_bytes(tensors))


def _hold_out(inputs: Tensor, targets: Tensor, cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """Hold out the fraction ``cfg.test`` for testing; the draw belongs to the data set, not to a cell's seed."""
    if not 0 < cfg["test"] < 1:
        raise BadInput(f"dataset.test={cfg['test']}; expected a fraction of the samples, for instance 0.2.")
    order = torch.randperm(len(inputs), generator=stream(0, "data", cfg["name"], "test"))
    held_out = max(1, round(cfg["test"] * len(inputs)))
    test, train = order[:held_out].sort().values, order[held_out:].sort().values
    return {
        "train_inputs": inputs[train],
        "train_targets": targets[train],
        "test_inputs": inputs[test],
        "test_targets": targets[test],
    }


def _tabular(inputs: Any, targets: Any, cfg: Mapping[str, Any], origin: str) -> Raw:
    """Float32 inputs (N, d) and targets (N, 1), every column standardised by mean and deviation of the training rows.

    Targets are a column, as a network with one output returns it: (N,) would silently broadcast in a squared error. As
    they are standardised too, a mean squared error of 1 is what the constant prediction gets.
    """
    split = _hold_out(torch.as_tensor(inputs).double(), torch.as_tensor(targets).double().unsqueeze(1), cfg)
    for part in ("inputs", "targets"):
        train = split[f"train_{part}"]
        mean, deviation = train.mean(0), train.std(0, correction=0)
        for name in (f"train_{part}", f"test_{part}"):
            split[name] = ((split[name] - mean) / deviation).float()
    return _raw(split, origin)


def _raw(tensors: dict[str, Tensor], origin: str) -> Raw:
    return Raw(**tensors, origin=origin, checksum=_checksum(tensors))
