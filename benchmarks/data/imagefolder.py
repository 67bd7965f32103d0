"""Image files in one folder per class: ``<class>/*.png``, or those below ``train``, ``test``, ``val``.

Only regular files below the folder are read: a link that leads out of it is refused, archives are not unpacked.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.decode import UnreadableImage, decoded_image
from benchmarks.data.flat import classes_of, label_file
from methods.errors import BadInput
from methods.progress import track

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
LAYOUT = "expected one folder of images per class, or train/ and test/ (and val/) with such folders"
VALIDATION = ("val", "valid", "validation", "dev")
INSIDE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # folders of the splits in ILSVRC as it is distributed
CLUTTER = frozenset({"__MACOSX", "__pycache__"})
LOG = logging.getLogger(__name__)

Files = dict[str, list[Path]]  # class -> its images, in the order of their names


def safe_root(source: Path) -> Path:
    """The folder ``source``, with links in its own path resolved."""
    if source.is_file():
        raise BadInput(f"dataset.source={source} is a file, not a folder; unpack an archive first: {LAYOUT}.")
    if not source.is_dir():
        raise BadInput(f"dataset.source={source} does not exist; {LAYOUT}.")
    return source.resolve()


def find(root: Path) -> dict[str, Files]:
    """The images of each class by split: ``train``, and ``test`` and ``validation`` where there are such folders.

    Without a folder ``train`` all folders are classes, and all images ``train``. A folder ``val`` (or ``valid``,
    ``validation``, ``dev``) is the validation split if there is a folder ``test``, and otherwise the test split,
    which is how most data sets with only ``train`` and ``val`` are scored; the log says so. In ILSVRC's own layout the
    splits lie in ``ILSVRC/Data/CLS-LOC`` and the labels of ``val`` in a file (:mod:`benchmarks.data.flat`); a folder
    ``test`` whose labels are not public is left out.

    Raises:
        BadInput: there is no such layout, a class is missing from ``train``, or a link that leads out of ``root``.
    """
    base = next((root / place for place in INSIDE if (root / place / "train").is_dir()), root)
    folders = _folders(base, root)
    by_name = {folder.name.lower(): folder for folder in folders}
    held_out = [by_name[name] for name in VALIDATION if name in by_name]
    if "train" not in by_name:
        splits = [folder.name for folder in (*held_out, *filter(None, [by_name.get("test")]))]
        if splits and len(splits) == len(folders):
            raise BadInput(f"{root} has {' and '.join(splits)} but no train; {LAYOUT}.")
        return {"train": _classes(folders, root)}
    if len(held_out) > 1:
        raise BadInput(f"{root} has {held_out[0].name} and {held_out[1].name}; keep one as the validation split.")
    chosen = {"train": by_name["train"]}
    if "test" in by_name and not (held_out and _unlabelled(by_name["test"], root)):
        chosen["test"] = by_name["test"]
    if held_out:
        chosen["validation" if "test" in chosen else "test"] = held_out[0]
        if "test" not in by_name:
            LOG.warning(
                "%s has no test/: %s/ is the test split, and validation is drawn from train/", root, held_out[0].name
            )
        elif chosen["test"] is held_out[0]:
            LOG.warning(
                "%s: the images in test/ have no labels: %s/ is the test split, and validation is drawn from train/",
                root,
                held_out[0].name,
            )
    if ignored := sorted(folder.name for folder in folders if folder not in (*chosen.values(), by_name.get("test"))):
        LOG.warning("%s: ignored beside train/: %s", root, ", ".join(ignored))
    parts = {"train": _classes(_folders(chosen["train"], root), root)}
    for split, folder in chosen.items():
        if split != "train":
            parts[split] = _part(folder, list(parts["train"]), root)
    for split, folder in chosen.items():
        if unknown := sorted(parts[split].keys() - parts["train"].keys()):
            raise BadInput(f"{root.name}/{folder.name} has the class '{unknown[0]}', which train has not; {LAYOUT}.")
    return parts


def _part(folder: Path, names: Sequence[str], root: Path) -> Files:
    """The images of a split beside ``train``: in folders of classes, or all together with a file of labels."""
    labels = label_file(folder, root)
    children = _folders(folder, root)
    if labels is None or {child.name for child in children} & set(names):
        return _classes(children, root)
    found, _ = _pictures(folder, root)
    if not found:
        raise BadInput(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}); {LAYOUT}.")
    files: Files = {}
    for picture, name in sorted(zip(found, classes_of(found, labels, names), strict=True), key=lambda each: each[1]):
        files.setdefault(name, []).append(picture)
    return files


def _unlabelled(folder: Path, root: Path) -> bool:
    """Whether a folder holds images but no folders of classes: a test split whose labels are not public."""
    children = [child.name for child in _folders(folder, root)]
    return label_file(folder, root) is None and children in ([], ["images"])


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
    found, ignored = {}, 0
    for folder in folders:
        found[folder.name], others = _pictures(folder, root)
        ignored += others
        if not found[folder.name]:
            raise BadInput(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}); {LAYOUT}.")
    if ignored:
        LOG.warning("%s: %d file%s ignored that are no images", folders[0].parent, ignored, "s" * (ignored != 1))
    return found


def _pictures(folder: Path, root: Path) -> tuple[list[Path], int]:
    """The images below ``folder`` in the order of their names, and the number of other files.

    Only links are resolved: asking the system where each of a million files really lies would take minutes.
    """
    pictures, others = [], 0
    for path in sorted(folder.rglob("*")):
        linked = path.is_symlink()
        if path.is_dir() and not linked:
            continue
        if path.suffix.lower() in SUFFIXES and not _is_clutter(path, folder):
            pictures.append(_inside(path, root) if linked or not path.is_file() else path)
        else:
            others += 1
    return pictures, others


def _is_clutter(path: Path, folder: Path) -> bool:
    """Whether ``path`` lies in what systems and archivers leave: hidden files and folders, ``__MACOSX``."""
    return any(part.startswith(".") or part in CLUTTER for part in path.relative_to(folder).parts)


def _folders(parent: Path, root: Path) -> list[Path]:
    entries = sorted(path for path in parent.iterdir() if path.is_dir() and not _is_clutter(path, parent))
    return [_inside(path, root) for path in entries]


def _inside(path: Path, root: Path) -> Path:
    """``path`` if it really lies below ``root``."""
    if not path.resolve().is_relative_to(root):
        raise BadInput(f"{path} is a link that leads out of {root}; copy what it points to into the folder.")
    if not (path.is_dir() or path.is_file()):
        raise BadInput(f"{path} is neither a file nor a folder; remove it from the data set.")
    return path
