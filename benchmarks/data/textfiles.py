"""Read texts from files: plain ones, also in a zip archive, Parquet with a column of text, or the hub.

Only what is named is read, and nothing is unpacked on disk.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data.decode import parquet_files
from methods.errors import BadInput, first_line

LARGEST_TEXT = 2**31  # bytes of a text in an archive, which may claim any size


def text_of(folder: Path, name: str, encoding: str, archive: str | None = None) -> str:
    """The text in a file of ``folder``, line ends as they are written.

    Args:
        folder: the folder of the data set.
        name: the name of the file in it, or in the archive (its last part, whatever folder it is in there).
        encoding: the encoding of the text.
        archive: name of a zip archive in ``folder``.

    Raises:
        BadInput: there is no such file, or it is no text in this encoding.
    """
    where = f"{name} in {archive}" if archive else name
    try:
        content = _archived(folder / archive, name) if archive else _inside(folder, name).read_bytes()
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise BadInput(
            f"{where} cannot be read in {folder} ({first_line(error)}); it holds {held}\n"
            "set dataset.source to the folder with the data set's files"
        ) from error
    try:
        return content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise BadInput(f"{where} is no text in {encoding} ({first_line(error)}); set dataset.encoding") from error


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{name} leads out of {folder}; name a file in it")
    return path


def _archived(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        found = [entry for entry in archive.infolist() if Path(entry.filename).name == name and not entry.is_dir()]
        if len(found) != 1:
            raise BadInput(f"{path.name} has {len(found)} files named {name}; expected one")
        if found[0].file_size > LARGEST_TEXT:
            raise BadInput(f"{name} in {path.name} has {found[0].file_size} bytes; unpack it, texts are read whole")
        return archive.read(found[0])


def lines_of(text: str) -> list[str]:
    """The lines of a text that are not blank; only line feeds end a line, as other separators may be part of it."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def parquet_columns(folder: Path, split: str, columns: Mapping[str, str]) -> list[list[Any]]:
    """Columns of all Parquet files of a split.

    Args:
        folder: which has ``<split>*.parquet`` at any depth.
        split: beginning of the files' names.
        columns: the setting that names each column, and the name.
    """
    found: list[list[Any]] = [[] for _ in columns]
    for path in parquet_files(folder, split):
        try:
            with pq.ParquetFile(path) as file:
                _check(file.schema_arrow.names, columns, path.name)
                table = file.read(list(columns.values()))
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path} cannot be read as Parquet: {first_line(error)}\ndownload it again") from error
        for column, name in zip(found, columns.values(), strict=True):
            column.extend(table.column(name).to_pylist())
    return found


def hub_columns(cfg: Mapping[str, Any], split: str, columns: Mapping[str, str]) -> list[list[Any]]:
    """Columns of one split of a repository on the Hugging Face hub."""
    from benchmarks.data.hub import rows_of

    rows = rows_of(cfg["hub"], cfg.get("subset"), split, cfg.get("revision"))
    _check(list(rows.features), columns, f"{cfg['hub']} ({split})")
    return [list(rows[name]) for name in columns.values()]


def _check(names: Sequence[str], columns: Mapping[str, str], where: str) -> None:
    for setting, name in columns.items():
        if name not in names:
            raise BadInput(f"{where} has no column '{name}' (it has {', '.join(names)})\nset dataset.{setting}")


def texts_in(column: Sequence[Any], name: str) -> list[str]:
    """The values of a column, all of which have to be texts."""
    wrong = next((row for row, value in enumerate(column) if not isinstance(value, str)), None)
    if wrong is not None:
        raise BadInput(f"column '{name}' holds {type(column[wrong]).__name__} in row {wrong}; expected texts")
    return list(column)


def labels_in(column: Sequence[Any], name: str) -> np.ndarray:
    """The values of a column as int64 labels from 0 on."""
    for row, value in enumerate(column):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadInput(f"column '{name}' holds {value!r} in row {row}; expected whole numbers from 0 on")
    return np.asarray(column, dtype=np.int64)
