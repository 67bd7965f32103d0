"""Build the optimizer, and compute the learning rate as a function of the step.

The learning rate is a pure function of the step. It has no state to save: a training that is resumed, or whose
parameters are replaced by pruning, continues the same curve.
"""

import math
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from benchmarks.settings.trainer import TrainerSettings
from methods.errors import BadInput

__all__ = ["TrainerSettings", "build_optimizer", "learning_rate", "refuse_hardware"]

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
FEWEST = 4  # processes that a machine with fewer cores may be asked for

FROZEN = (
    "all parameters of the network are frozen (requires_grad=False): nothing is left to train\n"
    "unfreeze some in its factory, or train nothing: trainer.train.epochs=0 trainer.finetune.epochs=0"
)


def refuse_hardware(settings: TrainerSettings, where: str) -> None:
    """Refuse more devices than there are: each is a process, and a hundred of them would take minutes to start.

    Raises:
        BadInput: names ``where.devices``, or ``where.accelerator``, and what is there.
    """
    gpus = torch.cuda.device_count() if settings.accelerator in ("auto", "cuda", "gpu") else 0
    if settings.accelerator in ("cuda", "gpu") and not gpus:
        raise BadInput(
            f"{where}.accelerator={settings.accelerator}: no GPU that PyTorch can use; type {where}.accelerator=cpu"
        )
    if settings.accelerator not in ACCELERATORS:
        raise BadInput(
            f"{where}.accelerator={settings.accelerator} is unknown; choose from {', '.join(ACCELERATORS)}\n"
            f"type {where}.accelerator=auto"
        )
    most = gpus or max(os.cpu_count() or 1, FEWEST)
    asked = settings.devices
    if isinstance(asked, int) and (asked > most or asked == 0 or asked < -1):
        raise BadInput(f"{where}.devices={asked}: this machine takes 1 to {most}; type {where}.devices=1")


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainerSettings) -> torch.optim.Optimizer:
    """The optimizer over ``parameters``, in its fused form where the device has one.

    Raises:
        BadInput: all of them are frozen.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not parameters:
        raise BadInput(FROZEN)
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters):
        options["fused"] = True
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=settings.nesterov, **options)
        if settings.momentum:
            # The fused form wants a buffer for all parameters or for none; pruning while training replaces only some.
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](parameters, **options)


def learning_rate(settings: TrainerSettings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of ``step`` (from 0).

    With eta the peak rate, T the number of all steps and t the step:

    - constant: eta
    - step: eta * gamma^(number of milestones reached)
    - cosine: eta * (1 + cos(pi t / T)) / 2, a new value each step (Loshchilov & Hutter 2017, without restarts)
    - onecycle: eta/25 up to eta over the first 30 %, down to eta/250000 at the end, both along half a cosine (Smith &
      Topin 2019; the shape and defaults of PyTorch's ``OneCycleLR`` with ``cycle_momentum=False``)

    With warm-up, the first steps rise linearly to eta, and cosine spans the rest.
    """
    peak, total = settings.learning_rate, settings.epochs * steps_per_epoch
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "cosine":
        return _half_cosine(peak, 0.0, (step - warmup) / (total - warmup))
    if settings.schedule == "onecycle":
        start, end, top = peak / 25, peak / 25 / 1e4, max(0.3 * total - 1, 1e-9)
        if step <= top:
            return _half_cosine(start, peak, step / top)
        return _half_cosine(peak, end, min((step - top) / max(total - 1 - top, 1e-9), 1.0))
    if settings.schedule == "step":
        epoch = step // steps_per_epoch
        drops = epoch // settings.step_size if settings.step_size else sum(m <= epoch for m in settings.milestones)
        return peak * settings.gamma**drops
    return peak


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
