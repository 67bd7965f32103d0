"""Train on several devices inside one cell, with processes that live as long as the training.

The rest of the cell, and of the sweep, stays in one process, so that only the training is done once per device. With
Fabric's own launcher, ``strategy=ddp`` would start the whole command again for each device.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.storage import checkpoint as store
from benchmarks.training.loop import History, OnEpoch, Task, fabric_of, train
from methods.errors import BadInput

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from benchmarks.training.optimisation import TrainerSettings

SPAWN = "ddp_spawn"
NAME = "trained"


def takes_several(settings: TrainerSettings) -> bool:
    """Whether this process has to start processes for a training; not if a launcher (torchrun) has started them."""
    return settings.strategy in ("ddp", SPAWN) and settings.devices not in (1, "1") and "LOCAL_RANK" not in os.environ


def fit_on_several(task: Task, on_epoch: OnEpoch | None) -> History:
    """Train as :func:`benchmarks.training.trainer.fit` does, on several devices.

    ``on_epoch`` is called at the end.

    Raises:
        BadInput: the hardware is not there, or ``on_epoch`` would have stopped the training early.
    """
    fabric = fabric_of(task.settings.model_copy(update={"strategy": SPAWN}))
    task.model.cpu()
    with tempfile.TemporaryDirectory(prefix="secateurs-") as folder:
        launch: Any = fabric.launch  # typed as if the function took Fabric alone
        launch(_train, task, Path(folder))
        stored = store.load(Path(folder), NAME)
    if stored is None:
        raise RuntimeError("the processes of the training left no result")
    tensors, facts = stored
    task.model.load_state_dict(tensors)
    history = History(**facts["history"])
    try:
        if on_epoch:
            for row in history.epochs:
                on_epoch(row)
    except StopIteration:
        raise BadInput(
            "a training on several devices cannot be stopped after some epochs, as rewinding to an epoch needs it\n"
            "type trainer.train.devices=1, or schedule.rewind=init"
        ) from None
    return history


def _train(fabric: Fabric, task: Task, folder: Path) -> None:
    """One process of the training; the first one saves what came out."""
    history = train(fabric, task)
    if fabric.is_global_zero:
        store.save(folder, NAME, task.model.state_dict(), {"history": asdict(history)})
    fabric.barrier()
