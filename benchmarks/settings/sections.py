"""Check types and ranges of every value of a cell's configuration before any work is done.

What a part of a method (selection, allocation, compensation, schedule), a network or a user's own reader takes is
declared by its signature: :mod:`benchmarks.settings.arguments`. Ranges that depend on the data are checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmarks.settings.base import Count, Name, OpenSection, Positive, Section, Text, checked
from benchmarks.settings.datasets import READERS, OwnReader
from benchmarks.settings.home import PARTS
from benchmarks.settings.trainer import TrainerSettings
from benchmarks.settings.tuning import FEWEST

Batch = Annotated[int, Field(ge=1, le=2**31)]
OPTION = rf"^({'|'.join(PARTS)})\.\w+$"


class Calibration(Section):
    """The number of samples that pruning may use."""

    examples: ClassVar[Mapping[str, str]] = {"samples": "1000", "batch_size": "256", "memory": "1000000000"}

    samples: Count | None = None
    batch_size: Batch
    memory: Count | None = None


class Dense(Section):
    """Where the dense network comes from."""

    checkpoint: Text | None = None


class Folders(Section):
    """The folders of results, caches and data."""

    results: Text
    cache: Text


class Method(Section):
    """The method's name on the boards and, for some controls, the method that they are a control of."""

    name: Name
    control_of: Text | None = None


class Part(OpenSection):
    """A class and its options."""

    target: Text = Field(alias="_target_")


class Model(Part):
    """A factory and its arguments."""

    name: Name | None = None


class Trainer(Section):
    """How networks are trained."""

    train: TrainerSettings
    finetune: TrainerSettings

    @model_validator(mode="after")
    def _dense_networks_have_no_teacher(self) -> Trainer:
        if self.train.distil is not None and self.train.distil.asked():
            raise ValueError(
                "train.distil: the dense network is the teacher and has none; type trainer.finetune.distil.weight=0.5"
            )
        return self


class Budget(Section):
    """How small the network shall become; the ranges are those of :class:`methods.budgets.budget.Budget`."""

    examples: ClassVar[Mapping[str, str]] = {
        "keep": "0.5",
        "compression": "2",
        "speedup": "2",
        "latency": "2",
        "latency_batch": "32",
        "default_compression": "4",
        "default_keep": "0.2",
    }

    keep: float | None = None
    compression: float | None = None
    speedup: float | None = None
    latency: float | None = None
    latency_batch: Batch | None = None
    default_compression: float | None = Field(None, ge=1)
    default_keep: float | None = Field(None, gt=0, le=1)  # of older configurations

    @model_validator(mode="after")
    def _has_a_default(self) -> Budget:
        if (self.default_compression is None) == (self.default_keep is None):
            raise ValueError("default_compression is what a cell is asked for that names no budget; expected a number")
        return self


class Latency(Section):
    """What is timed; null stands for the value given here. See :class:`benchmarks.measure.latency.Settings`."""

    examples: ClassVar[Mapping[str, str]] = {
        "runtimes": "[eager]",
        "batches": "[1,256]",
        "pairs": "20",
        "threads": "1",
        "target": "0.03",
        "max_seconds": "0.5",
    }

    runtimes: list[Text] | None = Field(None, min_length=1)
    batches: list[Batch] | None = Field(None, min_length=1)
    pairs: Annotated[int, Field(ge=1, le=10**6)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    target: Positive | None = None
    max_seconds: Positive | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    channels_last: bool | None = None
    device: Literal["cpu", "cuda"] | None = None


class Measure(Section):
    """What is measured apart from accuracy."""

    examples: ClassVar[Mapping[str, str]] = {"memory": "32", "latency.batches": "[1,256]"}

    latency: Latency | None = None
    memory: Batch | None = None
    theory: bool | None = None


class Tune(Section):
    """The trials of a cell that is tuned, which ``tune=4`` takes from conf/tuning (:mod:`benchmarks.settings.tuning`).

    ``rates`` are multiples of the rate that pruned networks are trained with, ``options`` values by dotted key.
    """

    examples: ClassVar[Mapping[str, str]] = {"rates": "[1.0,0.3]", "options": "[]"}

    rates: list[Positive] = Field(min_length=1)
    options: list[dict[Annotated[str, Field(pattern=OPTION)], Any]]


class Track(Section):
    """Where runs are logged."""

    mode: Literal["offline", "online", "disabled"]
    project: Text | None = None
    entity: Text | None = None
    group: Text | None = None
    tags: list[str] | None = None
    notes: str | None = None
    dir: Text | None = None


class Cell(Section):
    """The whole configuration of one cell."""

    examples: ClassVar[Mapping[str, str]] = {
        "seed": "1",
        "calibration": "calibration.samples=1000",
        "dense": "dense.checkpoint=FILE",
        "paths": "paths.results=FOLDER",
        "paths.results": "results",
        "paths.cache": ".cache",
        "dataset": "digits",
        "model": "mlp",
        "model._target_": "benchmarks.models.MLP",
        "trainer": "tiny",
        "trainer.train": "trainer.train.epochs=10",
        "trainer.finetune": "trainer.finetune.epochs=5",
        "track": "none",
        "measure": "none",
        "measure.latency": "measure=default",
        "budget": "budget.keep=0.5",
        "method": "magnitude",
        "method.name": "mine",
        "prune_residual": "true",
        "save": "true",
        "controls": "true",
        "dry_run": "true",
        "quantise": "int8",
        "tune": "4",
        **dict.fromkeys(PARTS, "method=magnitude"),
        **{f"{part}._target_": "method=magnitude" for part in PARTS},
    }

    seed: int = Field(ge=-(2**63), lt=2**63)  # boards keep it in 64 bits
    calibration: Calibration
    prune_residual: bool | None = None
    dense: Dense
    paths: Folders
    save: bool | None = None
    controls: bool | None = None
    quantise: Literal["int8"] | None = None
    tune: Annotated[int, Field(ge=FEWEST)] | Tune | None = None
    objective: str | list[str] | None = None
    dry_run: bool | None = None
    sweep: str | None = Field(None, alias="_sweep")
    wait: bool | None = Field(None, alias="_wait")
    replaced: str | None = Field(None, alias="_replace")
    dataset: dict[str, Any]
    model: Model
    trainer: Trainer
    method: Method
    selection: Part
    allocation: Part
    compensation: Part
    schedule: Part
    budget: Budget
    measure: Measure
    track: Track


def check_types(config: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for the first value whose type or range does not fit its key.

    Unknown and missing keys are named too. Nothing is imported or read.
    """
    if isinstance(config.get("tune"), Mapping):  # else the message would be about the union of number and section
        checked(Tune, config["tune"], "tune")
    checked(Cell, config, "")
    dataset = config["dataset"]
    checked(READERS.get(str(dataset.get("reader")), OwnReader), dataset, "dataset")
