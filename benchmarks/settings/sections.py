"""Types and ranges of every value of a cell's configuration, looked at before any work is done.

What a part of a method (selection, allocation, compensation, schedule), a network or a reader of one's own takes is
declared by its signature: :mod:`benchmarks.settings.arguments`. Ranges that depend on the data are checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from benchmarks.settings.base import Name, OpenSection, Section, checked
from benchmarks.settings.home import PARTS
from benchmarks.settings.trainer import TrainerSettings
from benchmarks.settings.tuning import FEWEST

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
OPTION = rf"^({'|'.join(PARTS)})\.\w+$"
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")]
FileName = Annotated[str, Field(min_length=1, pattern=r"^[^/\\]+$")]
Batch = Annotated[int, Field(ge=1, le=2**31)]


class Calibration(Section):
    """How many samples pruning may look at."""

    examples: ClassVar[Mapping[str, str]] = {"samples": "1000", "batch_size": "256", "memory": "1000000000"}

    samples: Count | None = None
    batch_size: Batch
    memory: Count | None = None


class Augment(Section):
    """How training images are varied; see :class:`benchmarks.data.augment.Augmentation`."""

    examples: ClassVar[Mapping[str, str]] = {
        "crop": "4",
        "flip": "true",
        "resized_crop": "[0.08,1.0]",
        "jitter": "0.4",
    }

    crop: int = Field(4, ge=0)  # pixels
    flip: bool = True
    resized_crop: list[Share] | None = Field(None, min_length=2, max_length=2)
    jitter: float | None = Field(None, ge=0, lt=1)

    @model_validator(mode="after")
    def _least_first(self) -> Augment:
        if self.resized_crop and self.resized_crop[0] > self.resized_crop[1]:
            raise ValueError("resized_crop is the least and the largest share of the image, for instance [0.08,1.0]")
        return self


class Dataset(Section):
    """What every data set has."""

    examples: ClassVar[Mapping[str, str]] = {
        "name": "flowers",
        "reader": "benchmarks.data.readers.images",
        "classes": "10",
        "shape": "[3,32,32]",
        "mean": "0.5",
        "std": "0.25",
        "levels": "255",
        "limit": "1000",
        "limit_test": "1000",
        "validation": "0.1",
        "test": "0.2",
        "augment": "'{crop:4,flip:true}'",
        "storage": "cached",
        "workers": "2",
        "stored": "256",
        "corrupt": "skip",
    }

    name: Name
    reader: Text
    task: Literal["classification", "regression", "text_classification", "language_model"] = "classification"
    classes: Count | None
    shape: list[Count] = Field(min_length=1, max_length=4)
    levels: Positive | None = None
    mean: float | list[float] = 0.0
    std: Positive | list[Positive] = 1.0
    augment: Augment | None = None
    validation: float = Field(0.1, gt=0, lt=1)
    limit: Count | None = None
    limit_test: Count | None = None

    @model_validator(mode="after")
    def _fits_the_shape(self) -> Dataset:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) not in (1, self.shape[0]):
                raise ValueError(
                    f"{name} has {len(value)} values, but a shape of {self.shape} has {self.shape[0]} channels; "
                    "expected one for all or one for each"
                )
        stored = getattr(self, "stored", None)
        if stored and (len(self.shape) != 3 or stored < max(self.shape[1:])):
            raise ValueError(
                f"stored={stored} is less than the inputs of shape {self.shape}, which are cut out of such images\n"
                f"type for instance dataset.stored={max(self.shape[1:]) * 8 // 7}, or dataset.stored=null"
            )
        if self.augment and (len(self.shape) != 3 or self.augment.crop >= min(self.shape[1:])):
            raise ValueError(
                f"augment.crop={self.augment.crop} does not fit inputs of shape {self.shape}; expected fewer pixels "
                "than an image is high and wide\ntype for instance dataset.augment.crop=4, or dataset.augment=null"
            )
        return self


class HeldOut(Dataset):
    """A data set without a test split of its own."""

    test: float = Field(0.2, gt=0, lt=1)


class Kept(Section):
    """How images are kept, for data sets of images; :mod:`benchmarks.data.storage`."""

    storage: Literal["memory", "cached", "streamed"] | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    stored: Count | None = None
    corrupt: Literal["refuse", "skip"] | None = None


class ImageFolder(HeldOut, Kept):
    """Images of the user's."""

    source: Text | None = None


class Shards(Dataset, Kept):
    """Tar shards of the user's."""

    source: Text | None = None


class Images(Dataset, Kept):
    """Images in the layout of the Hugging Face hub."""

    hub_streaming: bool | None = None
    source: Text | None = None
    hub: Repository | None = None
    subset: str | None = None
    revision: str | int | None = None
    train_split: Name = "train"
    test_split: Name = "test"
    image_column: Text
    label_column: Text
    resize: bool | None = None


class Collected(Images):
    """Images in whatever form they lie, or on the hub; held out where they have no test split."""

    test: float = Field(0.2, gt=0, lt=1)


class Sequences(Images):
    """Images read as sequences."""

    images: Name
    image_shape: list[Count] = Field(min_length=3, max_length=3)
    pool: Count

    @model_validator(mode="after")
    def _whole_images(self) -> Sequences:
        for name in ("storage", "stored", "corrupt"):
            if getattr(self, name) not in (None, "memory"):
                raise ValueError(f"{name}: images that are read as sequences lie in memory; type dataset.{name}=null")
        return self


class Friedman(HeldOut):
    """Friedman's first regression problem."""

    samples: int = Field(ge=10, le=10**8)
    noise: float = Field(1.0, ge=0)


class Words(HeldOut):
    """Texts: files, Parquet or a repository of the Hugging Face hub with a column of them."""

    examples: ClassVar[Mapping[str, str]] = {**Dataset.examples, "shape": "[128]", "tokenizer": "characters"}

    source: Text | None = None
    hub: Repository | None = None
    subset: str | None = None
    revision: str | int | None = None
    archive: FileName | None = None
    train_split: Name = "train"
    validation_split: Name | None = None
    test_split: Name | None = None
    text_column: Text | None = None
    encoding: Text | None = None
    tokenizer: Text
    shape: list[Count] = Field(min_length=1, max_length=1)


class RunningText(Words):
    """A text whose next tokens are predicted."""

    task: Literal["language_model"]
    train_file: FileName | None = None
    validation_file: FileName | None = None
    test_file: FileName | None = None
    stride: Count | None = None


class Sentences(Words):
    """Texts with classes."""

    task: Literal["text_classification"]
    class_files: list[FileName] | None = Field(None, min_length=2)
    label_column: Text | None = None


class OwnReader(Dataset, OpenSection):
    """Read by a function of the user's, which is given the whole section."""


READERS: dict[str, type[Dataset]] = {
    "benchmarks.data.readers.digits": HeldOut,
    "benchmarks.data.readers.california_housing": HeldOut,
    "benchmarks.data.readers.friedman1": Friedman,
    "benchmarks.data.readers.imagefolder": ImageFolder,
    "benchmarks.data.readers.shards": Shards,
    "benchmarks.data.readers.collection": Collected,
    "benchmarks.data.readers.images": Images,
    "benchmarks.data.readers.image_sequences": Sequences,
    "benchmarks.data.text.language_model": RunningText,
    "benchmarks.data.text.text_classification": Sentences,
}


class Dense(Section):
    """Where the dense network comes from."""

    checkpoint: Text | None = None


class Folders(Section):
    """Where things lie."""

    results: Text
    cache: Text


class Method(Section):
    """The method's name on the boards, and for some controls the method that they are a control of."""

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
    """How small; the ranges are those of :class:`methods.budgets.budget.Budget`."""

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
    """What is measured beside accuracy."""

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
    """Raise :class:`BadInput` for the first value of another type, or outside the range, than its key wants.

    Unknown and missing keys are named too. Nothing is imported or read.
    """
    if isinstance(config.get("tune"), Mapping):  # of a number or a section, the section's own fault is told
        checked(Tune, config["tune"], "tune")
    checked(Cell, config, "")
    dataset = config["dataset"]
    checked(READERS.get(str(dataset.get("reader")), OwnReader), dataset, "dataset")
