"""The suite's own configuration for one data set and network, as ``run.py`` would compose it."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.models import build
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer


@cache
def composed(*words: str) -> dict[str, Any]:
    """The plain configuration that the words give."""
    return Composer(CONF).cell(list(words))


def network(model: str, dataset: str) -> nn.Module:
    """The named network with the initial weights of seed 0, for the data set's shape."""
    config = composed(f"model={model}", f"dataset={dataset}")
    return build(config["model"], config["dataset"]["shape"], config["dataset"]["classes"], 0)


def cache_folder() -> Path:
    """Where decoded data lie."""
    return Path(os.environ.get("SECATEURS_CACHE", ".cache"))
