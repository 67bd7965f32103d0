"""Images in the Parquet layout of the Hugging Face hub, decoded into one uint8 tensor per split.

A folder holds ``train*.parquet`` and ``test*.parquet`` (at any depth) with one column of encoded images, a struct
``{bytes, path}``, and one column of integer labels. Folders are read with pyarrow and Pillow alone; ``datasets`` would
write an Arrow copy of everything next to the cache that we keep ourselves.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from benchmarks.data.sources.shelf import require_labels
from methods.errors import BadInput, first_line
from methods.progress import track

ROWS_AT_ONCE = 1024
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # none for which Pillow calls other programs


@dataclass(frozen=True)
class Columns:
    """What the table of a data set must hold: the columns' names, the images' shape (C, H, W), the classes.

    ``classes`` None takes any; with ``resize`` images of any size are cut and scaled to the shape.
    """

    image: str
    label: str
    shape: tuple[int, int, int]
    classes: int | None
    resize: bool = field(repr=False)


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The Parquet files of one split below ``folder``, in the order of their names."""
    files = sorted(
        path
        for path in folder.rglob(f"{split}*.parquet")
        if path.is_file() and path.name[0] != "." and "__MACOSX" not in path.parts
    )
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:4]) or "nothing"
        raise BadInput(
            f"the data folder {folder} has no {split}*.parquet (it holds {held}); expected the hub's Parquet layout, "
            f"train*.parquet and test*.parquet.\nSet dataset.source to such a folder."
        )
    return files


def decode_folder(folder: Path, split: str, columns: Columns) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of one split of a local folder, in the files' order."""
    parts = [_decode_file(path, columns) for path in parquet_files(folder, split)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def decode_hub(
    repository: str, revision: str | None, split: str, columns: Columns, subset: str | None = None
) -> tuple[Tensor, Tensor]:
    """The same for a repository on the Hugging Face hub, downloaded by ``datasets`` into its own cache."""
    import datasets

    from benchmarks.data.hub import rows_of

    rows = rows_of(repository, subset, split, revision)
    features = rows.features
    if columns.image in features:  # as stored: decoding is done below, the same way for both sources
        rows = rows.cast_column(columns.image, datasets.Image(decode=False))
    where = f"{repository} ({split})"
    check_columns(list(features), columns, where)
    return _decode(rows.with_format("arrow").iter(ROWS_AT_ONCE), len(rows), columns, where)


def _decode_file(path: Path, columns: Columns) -> tuple[Tensor, Tensor]:
    try:
        with pq.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, columns, str(path))
            tables = file.iter_batches(ROWS_AT_ONCE, columns=[columns.image, columns.label])
            return _decode(tables, file.metadata.num_rows, columns, str(path))
    except (pa.ArrowException, OSError) as error:
        raise unreadable_parquet(path, error) from error


def unreadable_parquet(path: Path, error: Exception) -> BadInput:
    """The error for a file that is not Parquet, with advice on what to do."""
    return BadInput(
        f"{path} cannot be read as Parquet: {first_line(error)}\nIt is truncated or something else; download it again."
    )


def check_columns(names: list[str], columns: Columns, where: str) -> None:
    """Raise :class:`BadInput` unless the table has the columns of images and labels."""
    for column, key in ((columns.image, "image_column"), (columns.label, "label_column")):
        if column not in names:
            raise BadInput(
                f"{where} has no column '{column}' (it has {', '.join(names)}).\n"
                f"Set dataset.{key}, or point dataset.source at the right data set."
            )


def _decode(
    tables: Iterator[pa.RecordBatch | pa.Table], count: int, columns: Columns, where: str
) -> tuple[Tensor, Tensor]:
    channels, height, width = columns.shape
    # Pillow decodes to (H, W, C), so that is the order in which rows are filled in.
    images = np.empty((count, height, width, channels), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    row = 0
    for table in track(tables, f"decoding {Path(where).name}", total=-(-count // ROWS_AT_ONCE)):
        labels[row : row + len(table)] = labels_of(table.column(columns.label), columns, where)
        for encoded in table.column(columns.image).to_pylist():
            images[row] = _pixels(encoded, columns, f"row {row} of {where}")
            row += 1
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def labels_of(column: pa.Array | pa.ChunkedArray, columns: Columns, where: str) -> np.ndarray:
    """(N,) labels of a column, if they are classes.

    Raises:
        BadInput: the labels are not integers, or lie outside the classes.
    """
    if not pa.types.is_integer(column.type) or column.null_count:
        raise BadInput(f"column '{columns.label}' of {where} is {column.type}; expected integers, none missing.")
    labels = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    return require_labels(labels, columns.classes, where)


def content_of(encoded: object, columns: Columns, where: str) -> bytes:
    """The encoded image in one entry of a column of images.

    Raises:
        BadInput: there is none.
    """
    content = encoded.get("bytes") if isinstance(encoded, dict) else encoded
    if not isinstance(content, bytes):
        raise BadInput(f"{where}: '{columns.image}' holds no encoded image; expected a struct with its bytes.")
    return content


def _pixels(encoded: object, columns: Columns, where: str) -> np.ndarray:
    content = content_of(encoded, columns, where)
    try:
        return decoded_image(io.BytesIO(content), columns.shape, columns.resize)
    except UnreadableImage as error:
        raise BadInput(f"{where}: '{columns.image}' cannot be decoded as an image ({error}).") from error
    except WrongSize as error:
        raise BadInput(
            f"{where} is {error}.\nSet dataset.shape, or point dataset.source at the right data set; "
            "dataset=hub takes images of any size."
        ) from error


class UnreadableImage(Exception):
    """Bytes that are not an image."""


class WrongSize(Exception):
    """An image of another size."""


def decoded_image(source: io.BytesIO | Path, shape: tuple[int, int, int], resize: bool) -> np.ndarray:
    """(H, W, C) uint8 pixels, grey for one channel, else RGB.

    Args:
        source: an encoded image, or its file.
        shape: (C, H, W).
        resize: cut the largest middle part with these proportions and scale it; else another size is refused.
    """
    channels, height, width = shape
    try:
        with Image.open(source, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image) if resize else image
            mode = "L" if channels == 1 else "RGB"
            picture = upright if upright.mode == mode else upright.convert(mode)  # convert always copies
            if resize:
                picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UnreadableImage(str(error)) from error
    if pixels.shape[:2] != (height, width):
        raise WrongSize(f"an image of {pixels.shape[0]}x{pixels.shape[1]} pixels; expected {height}x{width}")
    return pixels.reshape(height, width, channels)
