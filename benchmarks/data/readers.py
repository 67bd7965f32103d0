"""Where data sets come from: one function per source, named by ``dataset.reader`` in the configuration.

A reader takes the data set's configuration and the cache folder and returns everything as raw tensors, or as images
that are read when they are needed (:mod:`benchmarks.data.storage`). Its test split is the same for every seed, so that
cells of different seeds are tested on the same samples.
"""

import functools
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.raw import Raw, hold_out, raw_of
from methods.errors import BadInput, first_line

TEXT = "benchmarks.data.text"  # the module of the readers of texts
Reader = Callable[[Mapping[str, Any], Path], Raw]


def digits(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """scikit-learn's embedded handwritten digits: 1797 images (1, 8, 8) with 17 grey levels, 0 … 16."""
    return raw_of(hold_out(*_all_digits(), cfg), "scikit-learn load_digits")


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
    from benchmarks.data import pictures, storage

    return storage.read(pictures.tables(cfg, cache), cfg, cache)


def imagefolder(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Image files in one folder per class: below ``train``, ``test``, ``val``, or all together and held out here."""
    from benchmarks.data import pictures, storage

    return storage.read(pictures.files(cfg), cfg, cache)


def collection(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Images in any supported form in ``dataset.source``, else below $SECATEURS_DATA, else on the hub."""
    from benchmarks.data import pictures, storage

    return storage.read(pictures.gathered(cfg, cache), cfg, cache)


def shards(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Images in tar shards as WebDataset has them."""
    from benchmarks.data import pictures, storage

    return storage.read(pictures.shards(cfg, cache), cfg, cache)


def refuse_unreadable(cfg: Mapping[str, Any], cache: Path) -> None:
    """Refuse what cannot be read, as far as that is known without reading: missing folders, names, readers, the hub.

    Raises:
        BadInput: says what is missing and what to type.
    """
    reader = reader_of(cfg)
    if reader in (images, collection):
        _refuse_missing_images(cfg, cache)
    elif reader is image_sequences:
        _refuse_missing_images({**cfg, "name": cfg["images"], "shape": cfg["image_shape"]}, cache)
    elif reader in (imagefolder, shards):
        from benchmarks.data.pictures import own_folder

        own_folder(cfg)
    elif reader.__module__ == TEXT:
        from benchmarks.data.text import refuse_missing

        refuse_missing(cfg)


def _refuse_missing_images(cfg: Mapping[str, Any], cache: Path) -> None:
    from benchmarks.data import pictures, storage

    if pictures.folder_or_hub(cfg) is not None and reader_of(cfg) is collection:
        return  # the layout of its folder is examined only when it is read, since that may take long
    found = pictures.tables(cfg, cache)
    if found.hub and not storage.decoded(found, cache):
        from benchmarks.data.hub import refuse_unreachable

        refuse_unreachable(*found.hub)


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


def image_sequences(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """The images of another data set as sequences (steps, inputs per step), row by row.

    ``cfg.pool`` averages squares of pixels first (rounded to whole grey levels); channels of a pixel are its inputs.
    """
    raw = images({**cfg, "name": cfg["images"], "shape": cfg["image_shape"], "storage": "memory"}, cache)
    views: dict[str, Any] = {
        f"{part}_inputs": _as_sequence(getattr(raw, f"{part}_inputs"), cfg) for part in ("train", "test")
    }
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


def _tabular(inputs: Any, targets: Any, cfg: Mapping[str, Any], origin: str) -> Raw:
    """Float32 inputs (N, d) and targets (N, 1), every column standardised by mean and deviation of the training rows.

    Targets are a column, as a network with one output returns it: (N,) would silently broadcast in a squared error. As
    they are standardised too, a mean squared error of 1 is what the constant prediction gets.
    """
    split = hold_out(torch.as_tensor(inputs).double(), torch.as_tensor(targets).double().unsqueeze(1), cfg)
    for part in ("inputs", "targets"):
        train = split[f"train_{part}"]
        mean, deviation = train.mean(0), train.std(0, correction=0)
        for name in (f"train_{part}", f"test_{part}"):
            split[name] = ((split[name] - mean) / deviation).float()
    return raw_of(split, origin)
