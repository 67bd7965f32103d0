"""How a network is trained: the settings of the sections ``trainer.train`` and ``trainer.finetune``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from benchmarks.settings.base import Section, checked


def _as_tuple(value: Any) -> Any:
    """A list, also one of Hydra's (OmegaConf's ``ListConfig``), as a tuple; everything else as it is."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else value


def _as_dict(value: Any) -> Any:
    """A section, also one of Hydra's (OmegaConf's ``DictConfig``), as a dictionary; everything else as it is."""
    return dict(value) if isinstance(value, Mapping) else value


TEMPERATURE, WEIGHT = 4.0, 0.5  # defaults when only the other one is set


class Distillation(Section):
    """How the dense network teaches the pruned one; setting either option switches it on.

    See :mod:`benchmarks.training.distillation`.
    """

    examples: ClassVar[Mapping[str, str]] = {"temperature": "4", "weight": "0.5"}

    temperature: float | None = Field(default=None, gt=0)
    weight: float | None = Field(default=None, gt=0, le=1)

    def asked(self) -> tuple[float, float] | None:
        """Temperature and weight; None where there is no distillation."""
        if self.temperature is None and self.weight is None:
            return None
        return self.temperature or TEMPERATURE, self.weight or WEIGHT


class TrainerSettings(Section):
    """One section (``train`` or ``finetune``) of the trainer's configuration."""

    examples: ClassVar[Mapping[str, str]] = {
        "epochs": "10",
        "samples": "1600",
        "clip_norm": "1.0",
        "step_size": "30",
        "milestones": "[30,60]",
        "distil": "'{temperature:4,weight:0.5}'",
    }

    epochs: int = Field(ge=0, le=1_000_000)
    samples: int | None = Field(default=None, ge=2)  # of the training split in an epoch, in whole batches; null: all
    batch_size: int = Field(default=128, ge=1, le=2**31)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD only
    nesterov: bool = False  # SGD only
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "constant"
    milestones: Annotated[tuple[int, ...], BeforeValidator(_as_tuple)] = ()  # epochs; schedule=step
    step_size: int | None = Field(default=None, ge=1)  # epochs; schedule=step, instead of milestones
    gamma: float = Field(default=0.1, gt=0, le=1)  # schedule=step
    warmup_epochs: float = Field(default=0.0, ge=0)  # linear from 0; every schedule but onecycle, which has its own
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    distil: Annotated[Distillation | None, BeforeValidator(_as_dict)] = (
        None  # of trainer.finetune: the dense network teaches
    )
    include_start: bool | None = None  # whether the network as it came is a candidate among the epochs
    augment: bool = True  # the data set's own augmentation, where it has one
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    accelerator: str = "auto"
    devices: int | Annotated[str, Field(pattern=r"^(auto|\d+(,\d+)*)$")] = 1
    strategy: Literal["auto", "ddp", "ddp_spawn"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> TrainerSettings:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs a momentum above 0, e.g. momentum=0.9; or set nesterov=false")
        if self.schedule == "step" and bool(self.milestones) == (self.step_size is not None):
            raise ValueError("schedule=step needs either milestones=[30,60] or step_size=30 (in epochs), not both")
        if self.warmup_epochs and (self.schedule == "onecycle" or self.warmup_epochs >= max(self.epochs, 1)):
            raise ValueError("warmup_epochs must be less than epochs, and 0 with schedule=onecycle")
        return self

    @classmethod
    def from_config(cls, section: Any, where: str = "trainer.train") -> TrainerSettings:
        """Settings from a section of the configuration.

        Raises:
            BadInput: names the first wrong entry as ``where.<entry>``.
        """
        return checked(cls, dict(section) if isinstance(section, Mapping) else section, where)

    def training_facts(self) -> dict[str, Any]:
        """The settings that decide what is computed, without the hardware and without the teacher."""
        left_out = {"accelerator", "devices", "strategy", "distil"}
        return self.model_dump(mode="json", exclude=left_out | ({"samples"} if self.samples is None else set()))

    def steps_per_epoch(self, samples: int) -> int:
        """Updates in an epoch on a training split of ``samples``.

        A last batch of one sample is left out, since batch norm cannot train on it.
        """
        full, rest = divmod(min(samples, self.samples or samples), self.batch_size)
        return full + (rest > 1 or full == 0)
