"""Types of the values that the configuration's own sections hold, looked at before any work is done.

Ranges that depend on the data are checked there; the trainer's section is
:class:`benchmarks.training.optimisation.TrainerSettings`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from benchmarks.data.augment import Augmentation
from methods.errors import BadInput

SWITCHES = ("prune_residual", "save", "controls")
EXAMPLES = {
    "calibration.samples": "1000",
    "calibration.batch_size": "256",
    "dataset.limit": "1000",
    "dataset.limit_test": "1000",
    "dataset.validation": "0.1",
    "dataset.augment": "'{crop:4,flip:true}'",
    "dataset.augment.crop": "4",
    "dataset.augment.flip": "true",
}


class Section(BaseModel):
    """What else a section holds is not looked at."""

    model_config = ConfigDict(extra="ignore")


class Calibration(Section):
    """How many samples pruning may look at."""

    samples: int | None = None
    batch_size: int


Augment = dataclass(Augmentation, frozen=True, config=ConfigDict(extra="forbid"))


class Dataset(Section):
    """Which part of the data, and how it is varied."""

    limit: int | None = Field(None, ge=1)
    limit_test: int | None = Field(None, ge=1)
    validation: float = Field(0.1, ge=0, lt=1)
    augment: Augment | None = None  # type: ignore[valid-type]  # made by a call, above


SECTIONS: dict[str, type[Section]] = {"calibration": Calibration, "dataset": Dataset}


def check_types(config: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for the first value of another type than its key wants."""
    for key in SWITCHES:
        if config.get(key) not in (None, True, False):
            raise BadInput(f"{key}={config[key]} is neither true nor false; type for instance {key}=true")
    for name, section in SECTIONS.items():
        try:
            section.model_validate(config[name])
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            key = ".".join([name, *map(str, fault["loc"])])
            if fault["type"] == "unexpected_keyword_argument":
                raise BadInput(f"unknown key '{key}'; python run.py --cfg shows the keys of '{name}'") from None
            wanted = fault["msg"].removeprefix("Input should be ").split(",")[0]
            wanted = "a section of keys" if fault["type"] == "dataclass_type" else wanted
            example = f"; type for instance {key}={EXAMPLES[key]}" if key in EXAMPLES else ""
            raise BadInput(f"{key}={fault['input']} is not {wanted}{example}") from None
