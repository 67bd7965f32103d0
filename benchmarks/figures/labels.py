"""Place the names of lines as near to their lines as possible without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.text import Text

GAP = 2.5
"""Points between the numbers of two ticks, sideways: less reads as one number."""


def spread_out(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres close to the ``wanted`` ones (least squares), in order, within 0 to 1, far enough apart for ``heights``.

    Labels that would overlap form a block around their mean: isotonic regression, by pooling neighbours. If the heights
    add up to more than 1, the labels are spread evenly over the whole.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    total = sum(heights)
    if not order:
        return []
    squeeze = min(1.0, 1.0 / total)
    room = [heights[i] * squeeze for i in order]
    before = [sum(room[:place]) + room[place] / 2 for place in range(len(order))]
    # In terms of the free space below them, positions only have to be in order.
    free = [wanted[i] - own for i, own in zip(order, before, strict=True)]
    blocks: list[list[float]] = []
    for value in free:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    slack = max(0.0, 1.0 - total * squeeze)
    even = [min(max(value, 0.0), slack) for value, count in blocks for _ in range(int(count))]
    places = [0.0] * len(order)
    for i, below, own in zip(order, even, before, strict=True):
        places[i] = below + own
    return places


def overlapping(texts: Sequence[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that overlap by more than a pixel."""
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts if text.get_text()]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


def crowded(texts: Sequence[Text], dpi: float) -> list[tuple[str, str]]:
    """Pairs of tick labels of one axis that overlap, or that are less than ``GAP`` points apart sideways."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    room = GAP * dpi / 72
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if a.x0 - room < b.x1 and b.x0 - room < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1
    ]
