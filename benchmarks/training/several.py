"""One training on several devices, inside one cell: processes that live as long as the training.

The rest of the cell, and of the sweep, stays one process. So nothing but the training is done once per device, which is
what ``strategy=ddp`` would otherwise mean: Fabric's own launcher starts the whole command again for each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.storage import checkpoint as store
from methods.errors import BadInput

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from benchmarks.data.splits import Data
    from benchmarks.training.loop import History
    from benchmarks.training.optimisation import TrainerSettings

SPAWN = "ddp_spawn"
NAME = "trained"


def takes_several(settings: TrainerSettings) -> bool:
    """Whether a training needs processes that this one starts; not if somebody (torchrun) has started them."""
    return settings.strategy in ("ddp", SPAWN) and settings.devices not in (1, "1") and "LOCAL_RANK" not in os.environ


def fit_on_several(
    model: nn.Module,
    data: Data,
    settings: TrainerSettings,
    seed: int,
    masks: Mapping[str, Tensor],
    checkpoint: Path | None,
    label: str,
    on_epoch: Callable[[dict[str, float]], None] | None,
    first_epoch: int = 0,
) -> History:
    """Train ``model`` as :func:`benchmarks.training.trainer.fit` does, on several devices.

    ``on_epoch`` is called at the end.

    Raises:
        BadInput: the hardware is not there, or ``on_epoch`` would have stopped the training early.
    """
    from benchmarks.training.loop import History, fabric_of

    fabric = fabric_of(settings.model_copy(update={"strategy": SPAWN}))
    with tempfile.TemporaryDirectory(prefix="secateurs-") as folder:
        launch: Any = fabric.launch  # typed as if the function took Fabric alone
        launch(_train, model.cpu(), data, settings, seed, dict(masks), checkpoint, label, Path(folder), first_epoch)
        stored = store.load(Path(folder), NAME)
    if stored is None:
        raise RuntimeError("the processes of the training left no result")
    tensors, facts = stored
    model.load_state_dict(tensors)
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


def _train(
    fabric: Fabric,
    model: nn.Module,
    data: Data,
    settings: TrainerSettings,
    seed: int,
    masks: Mapping[str, Tensor],
    checkpoint: Path | None,
    label: str,
    folder: Path,
    first_epoch: int,
) -> None:
    """One process of the training; the first one saves what came out."""
    from benchmarks.training.loop import train

    history: Any = train(fabric, model, data, settings, seed, masks, checkpoint, label, first_epoch=first_epoch)
    if fabric.is_global_zero:
        store.save(folder, NAME, model.state_dict(), {"history": asdict(history)})
    fabric.barrier()
