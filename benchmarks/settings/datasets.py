"""Types and ranges of the section ``dataset``, by the reader that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from benchmarks.settings.base import Count, Name, OpenSection, Positive, Section, Text

Share = Annotated[float, Field(gt=0, le=1)]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")]
FileName = Annotated[str, Field(min_length=1, pattern=r"^[^/\\]+$")]


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
    """The options that every data set has."""

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
    """The user's own images."""

    source: Text | None = None


class Shards(Dataset, Kept):
    """The user's own tar shards."""

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
    """Images in any supported form, or on the hub; held out where they have no test split."""

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
