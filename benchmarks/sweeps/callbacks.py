"""The callback that Hydra calls when a sweep begins, as conf/config.yaml declares.

A third-party sweeper (``hydra/sweeper=optuna``) hands cells to the launcher itself. Each job leaves a note, and when
Hydra has finished, the notes become a sweep like any other: with a manifest, a board and an exit code.
"""

from __future__ import annotations

import os
import shlex
import uuid
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from benchmarks.records.manifest import Manifest, write_manifest
from benchmarks.storage.console import output_console
from benchmarks.sweeps.concluding import conclude
from benchmarks.sweeps.planning import Plan, paths_of, records_of
from benchmarks.sweeps.request import Call, current_call
from benchmarks.sweeps.searching import SEARCH, noted

if TYPE_CHECKING:
    from omegaconf import DictConfig

OURS = "secateurs_sweeper.SecateursSweeper"


class Search(Callback):
    """Reports the sweeps of third-party sweepers; our own sweeper reports its sweeps itself."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Name the search, and arrange for its report when Hydra has finished, however that ends."""
        call = current_call()
        if call is not None and not str(config.hydra.sweeper.get("_target_")).endswith(OURS):
            name = f"search-{uuid.uuid4().hex[:8]}"
            os.environ[SEARCH] = name
            call.at_end = lambda: _end(call, name, config)


def _end(call: Call, name: str, config: DictConfig) -> None:
    os.environ.pop(SEARCH, None)
    paths = paths_of(config)
    cells = noted(paths, name)
    if not cells:
        return
    words = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
    command = shlex.join(["python", "run.py", "-m", *(word for word in words if not word.startswith("hydra.mode="))])
    write_manifest(paths.runs, Manifest(name=name, command=command, cells=cells))
    stopped = call.outcome.code
    plan = Plan(name, words, cells, {}, paths)
    call.outcome = conclude(output_console(), plan, [], records_of(plan))
    call.outcome.code = call.outcome.code or stopped
