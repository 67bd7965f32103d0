"""The words of a command, looked at one by one."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks.sweeps.explaining import Explained


def expand(words: Sequence[str]) -> list[list[str]]:
    """All combinations of the comma-separated values in ``words``, in Hydra's order."""
    with Explained(None):
        overrides = OverridesParser.create().parse_overrides(list(words))
        [combinations] = BasicSweeper.split_arguments(overrides, None) or [[[]]]
    return [list(combination) for combination in combinations]


def key_of(word: str) -> str:
    """The key that a word such as ``+seed=0,1`` sets."""
    return word.partition("=")[0].lstrip("+~")
