"""Images as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data.sources.shelf import Shelf, Texts


class Files(Shelf):
    """One image per file below a folder.

    Args:
        root: the folder.
        paths: the paths of the images, all below it.
        labels: the labels of the images.
    """

    def __init__(self, root: Path, paths: Sequence[Path], labels: Sequence[int]) -> None:
        self.root = str(root)
        self.names = Texts(path.relative_to(root).as_posix() for path in paths)
        self.sizes = torch.tensor([path.stat().st_size for path in paths], dtype=torch.int64)
        self.targets: Tensor = torch.tensor(labels, dtype=torch.int64)

    def read(self, row: int) -> bytes:
        """The file's content."""
        return Path(self.root, self.names[row]).read_bytes()

    def place(self, row: int) -> str:
        """The file's path."""
        return str(Path(self.root, self.names[row]))

    def listing(self) -> Iterator[str]:
        """Names and sizes."""
        for name, size in zip(self.names, self.sizes.tolist(), strict=True):
            yield f"{name} {size}"
