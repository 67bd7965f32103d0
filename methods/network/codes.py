"""Patterns for group testing: which of many things that are tried at once caused a response.

Each of n things is in half of the w patterns, no two of them in the same half, so that C(w, w / 2) things can be told
apart. Of any two things each is in some pattern without the other (Sperner's theorem), and a response to more than half
of the patterns depends on several things.
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
    """For each column of (w, columns) responses to patterns the thing that caused it, :data:`NONE` or :data:`SEVERAL`.

    A response to too few patterns also counts as several things: a part of it was hidden.
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
