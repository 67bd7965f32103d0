"""Patterns that tell things apart when many of them are tried at once.

Each of n things is in half of the w patterns, no two of them in the same half, so that C(w, w / 2) things can be told
apart. Of two things each is in a pattern without the other (Sperner's theorem), and what answers to more than half of
the patterns depends on several.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

NONE, SEVERAL = -1, -2


def patterns(things: int) -> Tensor:
    """(w, things) bool: which things are in which pattern; w grows as the logarithm of their number."""
    known = _halves(things)
    return (known >> torch.arange(_width(things))[:, None]) % 2 == 1


def meant(answers: Tensor, things: int) -> Tensor:
    """For each column of (w, columns) answers to the patterns the thing that is meant, :data:`NONE` or :data:`SEVERAL`.

    An answer to too few patterns counts as several things, too: something has hidden a part of it.
    """
    known = _halves(things)
    asked = (answers * (1 << torch.arange(len(answers)))[:, None]).sum(0)
    place = torch.searchsorted(known, asked).clamp_max(things - 1)
    return torch.where(asked == 0, NONE, torch.where(known[place] == asked, place, SEVERAL))


def _width(things: int) -> int:
    return next(width for width in range(2, 64) if comb(width, width // 2) >= things)


def _halves(things: int) -> Tensor:
    """(things,) ascending numbers with half of w binary digits set."""
    width = _width(things)
    numbers = torch.arange(1 << width)
    digits = sum((numbers >> digit) & 1 for digit in range(width))
    return numbers[digits == width // 2][:things]
