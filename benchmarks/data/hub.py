"""Data sets of the Hugging Face hub, or earlier downloads where the hub does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.storage.hub import unreachable
from methods.errors import BadInput, first_line

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def rows_of(repository: str, subset: str | None, split: str, revision: str | None) -> Dataset:
    """One split of a repository, downloaded by ``datasets`` into its own cache, or from there.

    Raises:
        BadInput: it cannot be loaded; says where it may come from instead.
    """
    found: Dataset = _loaded(repository, subset, split, revision, streaming=False)
    return found


def stream_of(repository: str, subset: str | None, split: str, revision: str | None) -> IterableDataset:
    """The same, row by row as they arrive over the network; nothing is stored.

    Raises:
        BadInput: it cannot be loaded; says where it may come from instead.
    """
    found: IterableDataset = _loaded(repository, subset, split, revision, streaming=True)
    return found


def _loaded(repository: str, subset: str | None, split: str, revision: str | None, streaming: bool) -> Any:
    import datasets

    silent, how = unreachable(repository), {"streaming": True} if streaming else {}
    try:
        with _offline(silent is not None):
            return datasets.load_dataset(repository, subset, split=split, revision=revision, **how)
    except Exception as error:  # hub, HTTP and data set libraries each raise their own kinds
        raise BadInput(
            f"cannot get {repository} ({split}) from the Hugging Face hub: {silent or first_line(error)}\n"
            "Set dataset.source=<folder of its Parquet files>, or the environment variable SECATEURS_DATA=<root>."
        ) from error


def refuse_unreachable(repository: str, subset: str | None, split: str, revision: str | None) -> None:
    """Raise :class:`BadInput` where the hub does not answer and the repository was not downloaded before."""
    if unreachable(repository) is not None:
        rows_of(repository, subset, split, revision)


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """The switch HF_HUB_OFFLINE, which the libraries read from the environment when they are imported."""
    import datasets
    import huggingface_hub

    places: tuple[Any, Any] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = wanted or place.HF_HUB_OFFLINE
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
