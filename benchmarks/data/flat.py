"""Labels of images in one folder without a folder per class, as in ILSVRC and Tiny ImageNet.

Three files are known: ``val_annotations.txt`` of Tiny ImageNet (name and class, separated by tabs),
``LOC_val_solution.csv`` of ILSVRC as Kaggle distributes it (name, then the class and boxes), and the pair
``ILSVRC2012_validation_ground_truth.txt`` (a number a line, in the order of the images' names) and ``meta.mat`` (which
number is which class) of ILSVRC's development kit.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from methods.errors import BadInput, first_line

TINY = "val_annotations.txt"
KAGGLE = "LOC_val_solution.csv"
NUMBERS, NAMES = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
KIT = ("", "data", "devkit/data", "ILSVRC2012_devkit_t12/data")  # places of the development kit below the root
LONGEST = 2**26  # bytes of a file of labels


def label_file(folder: Path, root: Path) -> Path | None:
    """The file with the labels of the images in ``folder``, a split of the data set in ``root``."""
    if (folder / TINY).is_file():
        return folder / TINY
    if folder.name.lower() == "test":  # the other files are of the validation images
        return None
    if (root / KAGGLE).is_file():
        return root / KAGGLE
    for place in KIT:
        if (root / place / NUMBERS).is_file() and (root / place / NAMES).is_file():
            return root / place / NUMBERS
    return None


def classes_of(pictures: Sequence[Path], labels: Path, known: Sequence[str]) -> list[str]:
    """The class of each picture.

    Args:
        pictures: image files, in any order.
        labels: what :func:`label_file` has found.
        known: the classes of the training images.

    Raises:
        BadInput: the file cannot be understood, lacks a picture, or names a class that is not known.
    """
    try:
        if labels.stat().st_size > LONGEST:
            raise ValueError("it is too large for a file of labels")
        by_name = _numbered(pictures, labels) if labels.name == NUMBERS else _named(labels)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise BadInput(
            f"{labels} cannot be read as labels of {pictures[0].parent.name}/: {first_line(error)}\n"
            "Get it again, or sort the images into one folder per class."
        ) from error
    allowed = set(known)
    for picture in pictures:
        found = by_name.get(picture.stem)
        if found is None or found not in allowed:
            said = "does not name" if found is None else f"says '{found}', which train has not, of"
            raise BadInput(f"{labels} {said} {picture.name}; it is of another data set, or train/ lacks classes.")
    return [by_name[picture.stem] for picture in pictures]


def _named(labels: Path) -> dict[str, str]:
    """Classes by names of pictures without their suffix."""
    with labels.open(encoding="utf-8", newline="") as file:
        if labels.name == TINY:
            rows = [line.split("\t") for line in file if line.strip()]
        else:
            rows = [row for row in csv.reader(file) if row][1:]
    if any(len(row) < 2 for row in rows):
        raise ValueError("a line has no class")
    return {Path(row[0]).stem: row[1].split(" ")[0] for row in rows}


def _numbered(pictures: Sequence[Path], labels: Path) -> dict[str, str]:
    """The same for the development kit, whose numbers follow the order of the pictures' names."""
    from scipy.io import loadmat

    numbers = [int(line) for line in labels.read_text(encoding="ascii").split()]
    if len(numbers) != len(pictures):
        raise ValueError(f"it has {len(numbers)} labels for {len(pictures)} images")
    synsets = loadmat(labels.with_name(NAMES), squeeze_me=True)["synsets"]
    names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    ordered = sorted(pictures, key=lambda picture: picture.name)
    return {picture.stem: names[number] for picture, number in zip(ordered, numbers, strict=True)}
