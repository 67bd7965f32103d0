"""Image files in one folder per class: ``<class>/*.png``, or ``train/<class>/*`` and ``test/<class>/*``.

Only regular files below the folder are read: a link that leads out of it is refused, archives are not unpacked.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.decode import UnreadableImage, decoded_image
from methods.errors import BadInput
from methods.progress import track

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
LAYOUT = "expected one folder of images per class, or train/ and test/ with such folders"

Files = dict[str, list[Path]]  # class -> its images, in the order of their names


def safe_root(source: Path) -> Path:
    """The folder ``source``, with links in its own path resolved."""
    if source.is_file():
        raise BadInput(f"dataset.source={source} is a file, not a folder; unpack an archive first: {LAYOUT}.")
    if not source.is_dir():
        raise BadInput(f"dataset.source={source} does not exist; {LAYOUT}.")
    return source.resolve()


def find(root: Path) -> dict[str, Files]:
    """The images of each class, under ``train`` and ``test`` where there are such folders, else all under ``train``."""
    folders = _folders(root, root)
    by_name = {folder.name: folder for folder in folders}
    if "train" not in by_name:
        return {"train": _classes(folders, root)}
    parts = {"train": _classes(_folders(by_name["train"], root), root)}
    if "test" in by_name:
        parts["test"] = _classes(_folders(by_name["test"], root), root)
        unknown = sorted(parts["test"].keys() - parts["train"].keys())
        if unknown:
            raise BadInput(f"{root.name}/test has the class '{unknown[0]}', which train has not; {LAYOUT}.")
    return parts


def decode(files: Files, names: Sequence[str], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8, cut and scaled to ``shape``, and labels (N,): places of the classes in ``names``."""
    channels, height, width = shape
    label = {name: place for place, name in enumerate(names)}
    listed = [(path, label[name]) for name, paths in files.items() for path in paths]
    images = np.empty((len(listed), height, width, channels), dtype=np.uint8)
    for row, (path, _) in enumerate(track(listed, "decoding images")):
        try:
            images[row] = decoded_image(path, shape, resize=True)
        except UnreadableImage as error:
            raise BadInput(f"{path} cannot be decoded as an image ({error}); remove it, or mend it.") from error
    labels = torch.tensor([place for _, place in listed], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _classes(folders: Sequence[Path], root: Path) -> Files:
    if len(folders) < 2:
        raise BadInput(f"{folders[0].parent if folders else root} has {len(folders)} class folders; {LAYOUT}.")
    found = {}
    for folder in folders:
        files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
        found[folder.name] = [_inside(path, root) for path in files if not path.name.startswith(".")]
        if not found[folder.name]:
            raise BadInput(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}); {LAYOUT}.")
    return found


def _folders(parent: Path, root: Path) -> list[Path]:
    entries = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [_inside(path, root) for path in entries]


def _inside(path: Path, root: Path) -> Path:
    """``path`` if it really lies below ``root``."""
    if not path.resolve().is_relative_to(root):
        raise BadInput(f"{path} is a link that leads out of {root}; copy what it points to into the folder.")
    if not (path.is_dir() or path.is_file()):
        raise BadInput(f"{path} is neither a file nor a folder; remove it from the data set.")
    return path
