"""Parse the words of a command one by one with Hydra's own parser."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from benchmarks.sweeps.explaining import Explained
from methods.errors import BadInput

MOST = 100_000  # cells of one call: planning them takes minutes, and boards are read by people


def expand(words: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """All combinations of the values in ``words``, in the order of Hydra's basic sweeper: the last key varies fastest.

    Args:
        words: the words; a later one replaces an earlier one with the same key.
        loader: the loader of the configurations; only ``glob()`` needs it.

    Raises:
        BadInput: a word cannot be read, has values that cannot be listed (``interval()``), or none.
    """
    values: dict[str, list[str]] = {}
    with Explained(None):
        for override in OverridesParser.create(loader).parse_overrides(list(words)):
            key = override.get_key_element()
            _refuse_too_many(override)
            if not override.is_sweep_override():
                values[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise BadInput(
                    f"{override.input_line}: an interval has no list of values; expected range(), choice() or a comma\n"
                    "between values, or a sweeper that chooses numbers by itself: hydra/sweeper=NAME"
                )
            if not values[key]:
                raise BadInput(
                    f"{override.input_line} stands for no value at all; python run.py --help lists the choices"
                )
    number = math.prod(map(len, values.values()))
    if number > MOST:
        swept = " x ".join(f"{len(listed)} of {key}" for key, listed in values.items() if len(listed) > 1)
        raise BadInput(
            f"a sweep of {number:,} cells ({swept}); one call plans at most {MOST:,}\n"
            "type fewer values for a key, or call several times: what is done is not done again"
        )
    return [list(combination) for combination in itertools.product(*values.values())]


def _refuse_too_many(override: Override) -> None:
    """Refuse a range of too many values before they are listed.

    Raises:
        BadInput: it has more than a sweep may have cells, or never ends.
    """
    value = override.value()
    if not isinstance(value, RangeSweep) or value.start is None or value.stop is None:
        return
    number = abs((value.stop - value.start) / value.step) if value.step else math.inf
    if not number <= MOST:
        key = override.get_key_element()
        many = f"{number:,.0f} values" if math.isfinite(number) else "no end of values"
        raise BadInput(
            f"{override.input_line}: {many}; one call plans at most {MOST:,} cells\ntype for instance {key}=range(0,5)"
        )


def value_of(word: str) -> Any:
    """What a word sets its key to, a plain value."""
    with Explained(None):
        [override] = OverridesParser.create().parse_overrides([word])
    return override.value()


def sweeps(word: str) -> bool:
    """Whether ``word`` stands for several values, of which there may be one."""
    with Explained(None):
        [override] = OverridesParser.create().parse_overrides([word])
    return override.is_sweep_override()


def key_of(word: str) -> str:
    """The key that a word such as ``+seed=0,1`` sets."""
    return word.partition("=")[0].lstrip("+~")


def concerns_hydra(word: str) -> bool:
    """Whether a word sets something of Hydra itself, such as ``hydra/launcher=joblib``."""
    return key_of(word).startswith(("hydra.", "hydra/"))
