"""Choose the trials of a tuned method: the same number for every method, over grids that are declared in files.

``conf/tuning/rates.yaml`` has the multiples of the fine-tuning rate that every method tries; ``<method>.yaml`` in the
same folder has values of one or two of the method's own options. ``tune=N`` asks for N trials: the first four rates
(more for a method with fewer options), then each option at the best rate. The unchanged preset comes first.

A cell's configuration holds the trials and not just their number, so that its key changes when a file changes.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.settings.arguments import imported
from benchmarks.settings.home import CONF, yaml_of
from benchmarks.storage.paths import safe_name
from methods.errors import BadInput

FOLDER = "tuning"
RATES = "rates"
RATES_FIRST = 4
FEWEST = 2


def with_trials(config: dict[str, Any], conf: Path | None = None) -> dict[str, Any]:
    """``config`` with the trials in place of their number (``tune=4``); unchanged where ``tune`` is no number.

    Raises:
        BadInput: the method's grid has fewer trials than are asked for.
    """
    number = config.get("tune")
    if not isinstance(number, int) or isinstance(number, bool) or number < FEWEST:
        return config
    name = str((config.get("method") or {}).get("name"))
    rates, options = grid(name, conf or CONF)
    own = [option for option in options if _taken(config, option)][: max(number - RATES_FIRST, 0)]
    chosen = rates[: number - len(own)]
    if len(chosen) + len(own) < number:
        most = len(rates) + len(own)
        raise BadInput(
            f"tune={number}: the grid of {name} has {most} trials, and every method gets as many\n"
            f"type tune={most} or less, or declare more in conf/{FOLDER}/{RATES}.yaml"
        )
    return {**config, "tune": {"rates": chosen, "options": own}}


def grid(method: str, conf: Path) -> tuple[list[float], list[dict[str, Any]]]:
    """The rates that every method tries, and the settings of its own that ``method`` does, each in its order.

    Values of several options take turns.
    """
    rates = (yaml_of(conf / FOLDER / f"{RATES}.yaml") or {}).get("rates") or []
    own = yaml_of(conf / FOLDER / f"{safe_name(method)}.yaml") or {}
    turns = itertools.zip_longest(*([{key: value} for value in values] for key, values in own.items()))
    return [float(rate) for rate in rates], [option for turn in turns for option in turn if option is not None]


def trials_of(config: Mapping[str, Any]) -> int | None:
    """How many trials the cell of ``config`` has; None where nothing is tuned."""
    tune = config.get("tune")
    return len(tune.get("rates") or []) + len(tune.get("options") or []) if isinstance(tune, Mapping) else None


def with_options(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``options``, a value for each dotted key, and without its trials."""
    changed = {name: part for name, part in config.items() if name != "tune"}
    for key, value in options.items():
        section, _, name = key.partition(".")
        changed[section] = {**changed[section], name: value}
    return changed


def _taken(config: Mapping[str, Any], option: Mapping[str, Any]) -> bool:
    """Whether the part accepts its option: a part other than the preset's may have been chosen."""
    for key in option:
        section, _, name = key.partition(".")
        try:
            known = inspect.signature(imported(config[section]["_target_"])).parameters
        except Exception:  # what is wrong with the part is said where it is built
            return True
        if name not in known and not any(each.kind == each.VAR_KEYWORD for each in known.values()):
            return False
    return True
