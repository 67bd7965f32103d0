"""The configuration of one network, for commands that inspect a network and run no cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.cells.parts import check
from benchmarks.settings.home import CONF
from benchmarks.settings.sections import check_types
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.words import expand
from methods.errors import BadInput


def one_network(words: Sequence[str], data: bool = True) -> dict[str, Any]:
    """The checked configuration that ``words`` name, as for run.py; nothing is logged.

    Args:
        words: a word per choice or option.
        data: whether the data set has to be there; without it only types are checked, and a model when it is built.

    Raises:
        BadInput: if they name several, or something is wrong with one of them.
    """
    networks = expand(words)
    if len(networks) > 1:
        raise BadInput("several values for one key are several networks; type one of them")
    config = Composer(CONF).cell([*networks[0], "track=none"])
    if type(config["seed"]) is not int:  # YAML's true is an int to isinstance
        raise BadInput(f"seed={config['seed']} is not a whole number; type for instance seed=1")
    (check if data else check_types)(config)
    return config
