"""Images from a repository on the Hugging Face hub: downloaded before, or read once as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.data.decode import Columns, check_columns, content_of, labels_of
from benchmarks.data.hub import rows_of, stream_of
from benchmarks.data.sources.shelf import Shelf
from methods.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa


class HubRows(Shelf):
    """Rows that ``datasets`` has downloaded and maps into memory.

    Args:
        repository: owner/name on the hub.
        subset: for repositories with several.
        split: the name of the split there.
        revision: commit, tag or branch.
        columns: which hold image and label.
    """

    def __init__(self, repository: str, subset: str | None, split: str, revision: str | None, columns: Columns) -> None:
        import datasets

        rows = rows_of(repository, subset, split, revision)
        self.where, self.columns = f"{repository} ({split})", columns
        check_columns(list(rows.features), columns, self.where)
        self.identity = f"{repository} {subset} {split} {revision}"
        self._rows: Any = rows.cast_column(columns.image, datasets.Image(decode=False)).select_columns([columns.image])
        labels = rows.select_columns([columns.label]).with_format("arrow")
        column: pa.ChunkedArray = labels[:].column(columns.label)
        self.targets = torch.from_numpy(np.array(labels_of(column, columns, self.where)))

    def read(self, row: int) -> bytes:
        """The encoded image of a row."""
        return content_of(self._rows[row][self.columns.image], self.columns, self.place(row))

    def place(self, row: int) -> str:
        """The row and its repository."""
        return f"row {row} of {self.where}"

    def listing(self) -> Iterator[str]:
        """The repository and the revision."""
        yield self.identity


def rows_as_they_come(
    repository: str, subset: str | None, split: str, revision: str | None, columns: Columns
) -> Iterator[tuple[bytes, int]]:
    """Encoded image and label of each row, read from the hub without keeping what was read."""
    import datasets

    where = f"{repository} ({split})"
    rows = stream_of(repository, subset, split, revision)
    if rows.features is not None:
        check_columns(list(rows.features), columns, where)
        rows = rows.cast_column(columns.image, datasets.Image(decode=False))
    for number, row in enumerate(rows):
        check_columns(list(row), columns, where)
        label = row[columns.label]
        if type(label) is not int:
            raise BadInput(
                f"row {number} of {where}: '{columns.label}' is {type(label).__name__}; expected an integer."
            )
        yield content_of(row[columns.image], columns, f"row {number} of {where}"), label
