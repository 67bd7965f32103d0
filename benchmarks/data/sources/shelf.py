"""Encoded images of one split that can be read one by one: the one form that every source of images takes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from torch import Tensor

from methods.errors import BadInput


class Shelf(ABC):
    """Encoded images with their labels, in an order that never changes.

    Attributes:
        targets: (N,) int64 classes.
        scattered: whether one row can be read without reading much more; else rows should be read in order.
    """

    targets: Tensor
    scattered: bool = True

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def read(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            OSError: it is not there any more, or cannot be read.
        """

    @abstractmethod
    def place(self, row: int) -> str:
        """Where the row lies, for messages."""

    @abstractmethod
    def listing(self) -> Iterator[str]:
        """What is read, line by line, without times and without the folder's own place: equal for equal copies."""

    def mark(self) -> str:
        """A checksum of the listing and the labels, in hexadecimal digits."""
        digest = hashlib.sha256()
        for line in self.listing():
            digest.update(f"{line}\n".encode())
        digest.update(self.targets.numpy().tobytes())
        return digest.hexdigest()


class Texts(Sequence[str]):
    """Many short texts in two arrays.

    A list of a million texts takes a hundred bytes for each in addition to its letters, and a forked process that looks
    at one gets its own copy of the page, since looking changes the count of references.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)
        self._letters = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        """One text, or several as a list."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        start = int(self._ends[place - 1]) if place else 0
        return self._letters[start : int(self._ends[place])].tobytes().decode("utf-8", "surrogateescape")


def require_labels(labels: np.ndarray, classes: int | None, where: str) -> np.ndarray:
    """``labels`` as int64, if they are classes.

    Raises:
        BadInput: one is negative, or not below ``classes``.
    """
    if len(labels) and not (labels.min() >= 0 and (classes is None or labels.max() < classes)):
        highest = "the number of classes - 1" if classes is None else classes - 1
        raise BadInput(
            f"{where} has labels {labels.min()} to {labels.max()}; expected 0 to {highest}.\n"
            "Set dataset.classes, or point dataset.source at the right data set."
        )
    return labels.astype(np.int64, copy=False)
