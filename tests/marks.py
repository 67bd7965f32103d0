"""Which cases of a test belong to the quick round."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

QUICK = ("magnitude", "spectral", "magnitude_edge", "digits")


def slow_but_for(cases: Iterable[Any], *quick: str) -> list[Any]:
    """``cases``, names or files, one test each; all but the few named in ``quick`` (``QUICK``) are marked slow.

    For tests that ask the same of every preset: any one of them is cheap, all of them together are not.
    """
    found = []
    for case in cases:
        name = case.stem if isinstance(case, Path) else str(case)
        found.append(pytest.param(case, id=name, marks=() if name in (quick or QUICK) else pytest.mark.slow))
    assert any(not each.marks for each in found), "the quick round has none of these cases"
    return found
