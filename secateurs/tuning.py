"""Fine-tune any network on any tensors with the suite's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.data.splits import Data, Split, carve
from benchmarks.training.distillation import Teacher
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import fit
from methods.errors import BadInput
from secateurs.inputs import Inputs, Samples, called_by_row, own_copy

if TYPE_CHECKING:
    from benchmarks.training.loop import History

USUAL = {"schedule": "cosine"}


def finetune(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    inputs: Inputs,
    labels: Tensor,
    validation: float | tuple[Inputs, Tensor],
    seed: int,
    settings: Mapping[str, Any],
    dense: nn.Module | None = None,
) -> History:
    """Train ``model`` in place; the arguments are those of :meth:`secateurs.PrunedNetwork.finetune`.

    ``dense`` is the teacher if ``settings`` ask for ``distil``.
    """
    chosen = TrainerSettings.from_config(USUAL | dict(settings), "finetune")
    teacher, distil = None, chosen.distil.asked() if chosen.distil else None
    if distil is not None:
        if dense is None or torch.as_tensor(labels).is_floating_point():
            what = "a loaded network has no dense one" if dense is None else "a regression has no logits"
            raise BadInput(f"finetune.distil: {what} to learn from; expected none: leave distil out")
        teacher = Teacher(own_copy(dense), *distil)
    samples, labels = Samples(inputs), torch.as_tensor(labels)
    _require_labels(labels, samples, "labels")
    train, held_out = torch.arange(len(samples)), torch.arange(0)
    if isinstance(validation, tuple):
        others, their_labels = Samples(validation[0]), torch.as_tensor(validation[1])
        _require_labels(their_labels, others, "validation labels")
        samples, held_out = samples.joined(others), len(samples) + torch.arange(len(others))
        labels = torch.cat([labels, their_labels])
    elif validation:
        if not 0 < round(validation * len(samples)) < len(samples):
            raise BadInput(
                f"validation={validation} holds out {round(validation * len(samples))} of {len(samples)} samples; "
                "expected some for each: write validation=0.1, or 0 for none"
            )
        train, held_out = carve(len(samples), validation, seed)
    targets = labels if labels.is_floating_point() else labels.long()
    rows = samples.rows(torch.device("cpu"))
    targets, classes = targets.cpu(), 0 if targets.is_floating_point() else int(targets.max()) + 1
    splits = [Split(rows[which], targets[which]) for which in (train, held_out, torch.arange(0))]
    data = Data(type(model).__name__, splits[0], splits[1], splits[2], classes, (1,))
    with called_by_row(model, samples), called_by_row(teacher.model, samples) if teacher else nullcontext():
        return fit(model, data, chosen, seed, masks=masks, label=f"fine-tuning {data.name}", teacher=teacher)


def _require_labels(labels: Tensor, samples: Samples, name: str) -> None:
    if labels.dim() == 0 or len(labels) != len(samples):
        raise BadInput(f"{name} have shape {tuple(labels.shape)}; expected {len(samples)} rows, one for each sample")
