"""Networks of the common trainer for the reproductions that go their own ways with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.data.splits import Data
    from benchmarks.reproductions import Workplace
    from benchmarks.training.dense import Dense


def trained(
    work: Workplace, config: Mapping[str, Any], change: tuple[str, Callable[[Data], Data]] | None = None
) -> tuple[Data, Dense]:
    """The dense network of a cell, trained by the common trainer and cached where cells look for it, and its data.

    Args:
        work: where the cache is.
        config: the configuration of the cell, with its seed.
        change: a name and a function, for data that are changed after loading.
    """
    from benchmarks.data.splits import load
    from benchmarks.records.keys import dense_key
    from benchmarks.training.dense import dense_network
    from benchmarks.training.optimisation import TrainerSettings

    seed = int(config["seed"])
    data, key = load(config["dataset"], seed, work.cache), dense_key(config)
    if change is not None:
        data, key = change[1](data), f"{key}-{change[0]}"
    settings = TrainerSettings.from_config(config["trainer"]["train"], "trainer.train")
    return data, dense_network(config["model"], data, settings, seed, work.cache, key)
