"""The sweeper ``secateurs``: plan all cells, skip those that are done, and hand the rest to the chosen launcher.

Hydra reads this file at every start, also for ``--help``, so what it needs is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from benchmarks.records.schema import Record


class SecateursSweeper(Sweeper):
    """Sweep over all combinations of the values in the words and in ``params``, without duplicates.

    Args:
        max_batch_size: how many cells the launcher gets at once; None for all.
        params: a grid, ``{key: values}``; overrides on the command line win.
    """

    hydra_context: HydraContext
    config: DictConfig

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the context; Hydra calls this before :meth:`sweep`."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> list[Record]:
        """Carry out the sweep that ``arguments`` ask for, and return the records of its cells, in order."""
        from benchmarks.sweeps.sweep import sweep

        return sweep(self, arguments)


# A mapping and not a dataclass: Hydra executes this file before it is in ``sys.modules``, where dataclasses look.
DEFAULTS = {
    "_target_": "hydra_plugins.hydra_secateurs_sweeper.secateurs_sweeper.SecateursSweeper",
    "max_batch_size": None,
    "params": None,
}
ConfigStore.instance().store(group="hydra/sweeper", name="secateurs", node=DEFAULTS, provider="secateurs_sweeper")
