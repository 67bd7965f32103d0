"""Figures as bytes: the same numbers give the same file, and the PNG shows what the SVG shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.storage.paths import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = ("svg", "png")
DPI = 150
COLOURS = 128
"""A PNG's palette: enough for soft edges of eight colours, at a third of the size."""


def drawn(figure: Figure, form: str, salt: str, title: str | None = None, page: bool = False) -> bytes:
    """The figure as a file's content.

    Args:
        figure: the figure with everything in it.
        form: ``svg`` or ``png``.
        salt: makes the identifiers of an SVG its own; figures that share a page need different ones.
        title: for readers who do not see the figure, in the file's metadata.
        page: whether an SVG becomes part of a page: letters stay letters and the page shines through; otherwise letters
            are drawn, the same on every machine.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none" if page else "path", "font.family": "DejaVu Sans"}):
        if form == "svg":
            metadata = {"Date": None, "Creator": None} | ({"Title": title} if title else {})
            figure.savefig(buffer, format="svg", metadata=metadata, transparent=page)
            return buffer.getvalue()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return _small(buffer)


def _small(picture: io.BytesIO) -> bytes:
    """The PNG with a palette, without transparency."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write(figure: Figure, folder: Path, name: str, title: str | None = None) -> list[Path]:
    """Write ``name``.svg and ``name``.png."""
    paths = []
    for form in FORMS:
        paths.append(folder / f"{name}.{form}")
        write_atomically(paths[-1], drawn(figure, form, name, title))
    return paths
