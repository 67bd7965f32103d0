"""How a network is trained: the settings with their checks, the optimizer, and the learning rate as a function of time.

The learning rate is a pure function of the step. It has no state to save: a training that is resumed, or whose
parameters are replaced by pruning, continues the same curve.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from methods.errors import BadInput

EXAMPLES = {"epochs": 10, "clip_norm": 1.0, "step_size": 30, "milestones": "[30,60]"}  # where the default is no example


class TrainerSettings(BaseModel):
    """One section (``train`` or ``finetune``) of the trainer's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(ge=0)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD only
    nesterov: bool = False  # SGD only
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "constant"
    milestones: tuple[int, ...] = ()  # epochs; schedule=step
    step_size: int | None = Field(default=None, ge=1)  # epochs; schedule=step, instead of milestones
    gamma: float = Field(default=0.1, gt=0, le=1)  # schedule=step
    warmup_epochs: float = Field(default=0.0, ge=0)  # linear from 0; every schedule but onecycle, which has its own
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    augment: bool = True  # the data set's own augmentation, where it has one
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> "TrainerSettings":
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs a momentum above 0, e.g. momentum=0.9; or set nesterov=false")
        if self.schedule == "step" and bool(self.milestones) == (self.step_size is not None):
            raise ValueError("schedule=step needs either milestones=[30,60] or step_size=30 (in epochs), not both")
        if self.warmup_epochs and (self.schedule == "onecycle" or self.warmup_epochs >= max(self.epochs, 1)):
            raise ValueError("warmup_epochs must be less than epochs, and 0 with schedule=onecycle")
        return self

    @classmethod
    def from_config(cls, section: Mapping[str, Any], where: str = "trainer.train") -> "TrainerSettings":
        """Settings from a section of the configuration.

        Raises:
            BadInput: names the first wrong entry as ``where.<entry>``.
        """
        try:
            return cls.model_validate({key: _plain(value) for key, value in section.items()})
        except ValidationError as error:
            raise BadInput(_explain(error, where)) from None

    def training_facts(self) -> dict[str, Any]:
        """The settings that decide what is computed, without those that say on which hardware."""
        return self.model_dump(mode="json", exclude={"accelerator", "devices", "strategy"})


def _plain(value: Any) -> Any:
    """A list of Hydra's (OmegaConf's ``ListConfig``) as a tuple; everything else as it is."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else value


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    entry, value = f"{where}.{name}", first.get("input")
    if first["type"] == "extra_forbidden":
        return f"{entry} is not a setting of the trainer; known are: {', '.join(TrainerSettings.model_fields)}"
    if first["type"] == "missing":
        return f"{entry} is missing; give it a value, e.g. {entry}=10"
    if first["type"] == "literal_error":
        choices = get_args(TrainerSettings.model_fields[name].annotation)
        return f"{entry}={value} is unknown; choose one of: {', '.join(map(str, choices))}"
    if first["type"] == "value_error" and not name:
        return f"{where}: {first['ctx']['error']}"
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    example = EXAMPLES.get(name, str(TrainerSettings.model_fields[name].default).lower())
    return f"{entry}={value} is not possible; it must be {message}, e.g. {entry}={example}"


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainerSettings) -> torch.optim.Optimizer:
    """The optimizer over ``parameters``, in its fused form where the device has one."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
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
