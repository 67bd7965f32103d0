"""The one trainer that every network goes through: dense, after pruning, and during it, on Lightning Fabric.

All randomness of an epoch (order, augmentation, dropout) derives from the seed and the epoch's number, so that an
interrupted training continues with exactly the batches it would have seen. With several devices each takes its share of
every batch; the batch size is that of all devices together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from benchmarks.training.distillation import Teacher
from benchmarks.training.loop import History, Task, fabric_of, train
from benchmarks.training.multi_device import fit_on_several, takes_several
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.scoring import Score, evaluate
from methods.errors import BadInput
from methods.hooks import TrainingHook

if TYPE_CHECKING:
    from benchmarks.data.splits import Data

__all__ = ["History", "Score", "TrainerSettings", "evaluate", "fit"]


def fit(
    model: nn.Module,
    data: "Data",
    settings: TrainerSettings,
    seed: int,
    *,
    masks: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    label: str = "",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    hooks: Sequence[TrainingHook] = (),
    first_epoch: int = 0,
    teacher: Teacher | None = None,
) -> History:
    """Train ``model`` in place; it ends on its own device, in its own mode, with the best weights by validation.

    Best is the highest validation accuracy; among equals the lowest validation loss, and then the latest epoch. For
    regression it is the lowest validation loss. Without validation samples it is the last epoch. With
    ``settings.include_start`` the weights that ``model`` came with are a candidate, too (epoch 0), so that the training
    cannot make it worse on the validation split; of equals an epoch is taken.

    A loss that is not finite ends the training: ``History.collapsed`` says so, and the model has the best weights that
    it had before, or, if it never had any, whatever is left.

    Args:
        model: the network.
        data: its ``train`` split is trained on, its ``validation`` split chooses the epoch; ``test`` is not touched.
        settings: how to train. With 0 epochs nothing happens.
        seed: root of all randomness.
        masks: by parameter name, True where a weight is alive. The others are zero throughout, whatever momentum and
            weight decay do.
        checkpoint: folder for the state after every epoch. If it holds the state of this same training (settings, seed,
            data, initial weights, masks), the training continues from there, and on a CPU ends with the same bits as
            one that was never interrupted. The caller deletes the folder when the result is safe.
        label: what is trained, for the progress display.
        on_epoch: called with the row of each epoch, after the checkpoint was written.
        hooks: methods that prune while training.
        first_epoch: number of epochs to skip at the beginning of the recipe, because ``model`` has had them; learning
            rates and orders of samples are those of the remaining epochs.
        teacher: its logits are learned in addition to the labels; the row of an epoch has the loss with the labels.

    Raises:
        BadInput: a mask that does not fit, or hardware that is not there.
    """
    if settings.epochs <= first_epoch:
        return History()
    _check_masks(model, masks or {})
    task = Task(model, data, settings, seed, dict(masks or {}), checkpoint, label, first_epoch, teacher)
    if takes_several(settings):
        if hooks:
            raise BadInput("methods that prune while training run on one device; type trainer.train.devices=1")
        return fit_on_several(task, on_epoch)
    fabric = fabric_of(settings)
    fabric.launch()
    return train(fabric, task, on_epoch, hooks)


def _check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, mask in masks.items():
        if name not in shapes:
            raise BadInput(f"there is a mask for '{name}', but the network's parameters are: {', '.join(shapes)}")
        if mask.shape != shapes[name]:
            raise BadInput(f"the mask of '{name}' has shape {tuple(mask.shape)}; expected {tuple(shapes[name])}")
