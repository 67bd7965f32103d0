"""Images in the Parquet shards of the Hugging Face hub's layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.data.decode import Columns, check_columns, content_of, labels_of, unreadable_parquet
from benchmarks.data.sources.shelf import Shelf


class ParquetRows(Shelf):
    """Rows of several Parquet files.

    Parquet is read a row group at a time, so reading in order is quick and reading at random is not.

    Args:
        files: the files in their order.
        columns: which hold image and label.
    """

    scattered = False

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        self.files, self.columns = [str(path) for path in files], columns
        self._group: tuple[int, int] = (-1, -1)
        self._images: Any = None
        labels, starts, places = [np.empty(0, dtype=np.int64)], [0], []
        for number, path in enumerate(files):
            try:
                with pq.ParquetFile(path) as file:
                    check_columns(file.schema_arrow.names, columns, str(path))
                    for group in range(file.metadata.num_row_groups):
                        places.append((number, group))
                        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
                    column = file.read([columns.label]).column(columns.label)
            except (pa.ArrowException, OSError) as error:
                raise unreadable_parquet(path, error) from error
            labels.append(labels_of(column, columns, str(path)))
        self.targets = torch.from_numpy(np.concatenate(labels))
        self._starts, self._places = np.array(starts), places

    def read(self, row: int) -> bytes:
        """The encoded image of a row; the group that it lies in stays in memory until another is asked for."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = self._places[group]
        if place != self._group:
            path = Path(self.files[place[0]])
            try:
                with pq.ParquetFile(path) as file:
                    self._images = file.read_row_group(place[1], columns=[self.columns.image]).column(0)
            except pa.ArrowException as error:
                raise unreadable_parquet(path, error) from error
            self._group = place
        return content_of(self._images[row - int(self._starts[group])].as_py(), self.columns, self.place(row))

    def place(self, row: int) -> str:
        """The row and its file."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        number = self._places[group][0]
        first = next(start for start, place in zip(self._starts, self._places, strict=False) if place[0] == number)
        return f"row {row - int(first)} of {self.files[number]}"

    def listing(self) -> Iterator[str]:
        """Names and sizes of the files."""
        for path in map(Path, self.files):
            yield f"{path.name} {path.stat().st_size}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": (-1, -1), "_images": None}
