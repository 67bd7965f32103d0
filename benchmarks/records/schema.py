"""The schema of records: one per cell, holding everything in its file; the only source of the boards.

Numbers keep seven significant digits, keys are sorted, and what is not a number (NaN, infinity) is null, so that files
are small and their diffs readable.

Versions of the format: a record of version 1 may lack its checksum and has none of the fields in ``SINCE_2``; from
version 2 on the checksum is required. Records of version 3 are those of texts, with the fields in ``SINCE_3``. A record
keeps the format version that it was written with.
"""

import hashlib
import json
import math
import traceback as tracebacks
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler, model_serializer

from benchmarks.records.keys import recordable
from benchmarks.settings.tasks import LANGUAGE_MODEL
from benchmarks.storage.paths import LONGEST_NAME, NAME, REPOSITORY

LATEST_VERSION = 3
UNSIGNED = 1  # the last version whose records may lack a checksum
SINCE_2 = ("left_alone", "warnings", "tuning")
SINCE_3 = ("calibration", "characters_per_token")
DIGITS = 7
LARGEST_EXPONENT = 700.0
LEFT_ALONE = "left alone: "  # how a note begins the sentence that names the layers that were not pruned
FINISHED = frozenset({"done", "collapsed", "skipped"})

Status = Literal["done", "failed", "collapsed", "skipped"]
FreeForm = dict[str, Any]
Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]  # it becomes part of a path
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Scalar = str | int | float | bool | None
SECTIONS = ("dataset", "model", "budget", "trainer")  # sections of a configuration that much code reads
WORDS = ("python", "torch", "numpy", "platform", "cpu", "gpu", "precision", "commit", "data", "code")  # of fingerprints


def _plain(value: Any) -> Any:
    """``value`` as JSON values: numbers rounded, NaN and infinity null, arrays and tensors as lists."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, BaseModel):
        return value.model_dump()
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    raise TypeError(f"a record holds plain values, not {type(value).__name__}")


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("a number is expected, no text and no truth value")
    return value


# Whole floats are accepted, since effective MACs are computed as floats; boards store 64 bits.
Count = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**63, strict=False)]


class Part(BaseModel):
    """The base class of the parts of a record: no undeclared fields, no strings for numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class Budget(Part):
    """How small the network was asked to become, as ``{kind: value}``, and how small it became."""

    requested: dict[Literal["keep", "compression", "speedup", "latency"], Amount] = Field(
        default_factory=dict, max_length=1
    )
    achieved: "Achieved" = Field(default_factory=lambda: Achieved())
    note: str | None = None


class Achieved(Part):
    """Ratios original / remaining of parameters and MACs (and of time for a latency budget), and the fraction kept."""

    compression: Amount | None = None
    speedup: Amount | None = None
    keep: Share | None = None
    latency: Amount | None = None


class Metrics(Part):
    """One network, measured on the test split. Accuracies are fractions; MACs are of one sample."""

    accuracy: Share | None = None
    top5: Share | None = None
    loss: float | None = None
    parameters: Count | None = None
    nonzero: Count | None = None
    macs: Count | None = None
    macs_effective: Count | None = None


class Stages(Part):
    """The dense network, the pruned one, that with recalibrated batch norms, and the fine-tuned one."""

    dense: Metrics | None = None
    pruned: Metrics | None = None
    recalibrated: Metrics | None = None
    tuned: Metrics | None = None


class Latency(Part):
    """Dense against pruned, interleaved in one process; ``ratio`` = dense / pruned, above 1 when pruning is faster."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)  # a runtime may add its own figures

    runtime: str
    batch: Count
    dense_ms: Amount | None = None
    pruned_ms: Amount | None = None
    dense_iqr_ms: Amount | None = None
    pruned_iqr_ms: Amount | None = None
    ratio: Amount | None = None
    ratio_low: Amount | None = None
    ratio_high: Amount | None = None
    pairs: Count | None = None
    note: str | None = None


class Cost(Part):
    """The resources that pruning itself took."""

    dense_seconds: Amount | None = None
    prune_seconds: Amount | None = None
    tune_seconds: Amount | None = None
    peak_memory_mb: Amount | None = None
    calibration_samples: Count | None = None


class FileSize(Part):
    """Bytes of one network: as a plain file of its tensors, with zeros left out, and the latter compressed."""

    bytes: Count
    encoded: Count
    compressed: Count


class Size(Part):
    """The dense and the pruned network on disk."""

    dense: FileSize
    pruned: FileSize


class Eight(Part):
    """One network in eight bits: its scores, and the bytes of its ONNX file in float32 and in eight bits."""

    accuracy: Share | None = None
    top5: Share | None = None
    loss: float | None = None
    bytes_float: Count
    bytes: Count


class Quantised(Part):
    """The dense and the fine-tuned pruned network in eight bits; ``latency`` is dense in float32 / pruned in eight."""

    format: Literal["int8"]
    dense: Eight | None = None
    pruned: Eight | None = None
    latency: list[Latency] | None = None
    note: str | None = None


class Memory(Part):
    """Peak memory, each in its own process: of inference with the two networks, and of pruning."""

    batch: Count
    dense_mb: Amount | None = None
    pruned_mb: Amount | None = None
    prune_mb: Amount | None = None
    note: str | None = None


class Layer(Part):
    """One layer or coupled group, and the numbers that the method reports about it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    name: str
    units: Count
    kept: Count

    @model_validator(mode="after")
    def _possible(self) -> "Layer":
        if self.kept > self.units:
            raise ValueError(f"keeps {self.kept} of {self.units} units")
        return self


class Texts(Part):
    """The texts that pruning used: how many, drawn by which seed from what, and a digest of their tokens."""

    sequences: Count
    tokens: Count
    seed: int
    origin: str
    digest: str
    begins: str
    tokenizer: str


class LeftAlone(Part):
    """A layer or coupled group that was not pruned, and why."""

    layer: str
    reason: str


class Prediction(Part):
    """What a theory predicts about the damage of pruning, and what was measured; ``layer`` is None for the network."""

    theory: str
    layer: str | None = None
    predicted: float | None = None
    measured: float | None = None
    unit: str | None = None


def _sectioned(config: FreeForm) -> FreeForm:
    """``config`` if its sections are such that other code can read them."""
    sections = {name: config.get(name) for name in SECTIONS}
    trainer = sections["trainer"]
    if isinstance(trainer, dict):
        sections |= {f"trainer.{name}": trainer.get(name) for name in ("train", "finetune")}
    for name, section in sections.items():
        if section is not None and not isinstance(section, dict):
            raise ValueError(f"its section {name} is no mapping")
    return config


def _worded(mark: dict[str, Scalar]) -> dict[str, Scalar]:
    """``mark`` if its names are strings, as boards compare them."""
    for name in WORDS:
        if not isinstance(mark.get(name), str | None):
            raise ValueError(f"its {name} is no text")
    return mark


def _numbers(row: FreeForm) -> FreeForm:
    """``row`` (one epoch of a training) if all its values are numbers."""
    for name, value in row.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"its {name} is no number")
    return row


def _dated(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class Record(Part):
    """The result of one cell.

    Attributes:
        calibration: the texts that pruning used; None for other data.
        characters_per_token: mean length of a token of the test split's text, for bits per character.
        left_alone: what was not pruned, and why.
        warnings: what a reader should know of this result, in words: nearly everything of a layer removed, a weight
            that grew tenfold, fine-tuning that lowered the accuracy.
        tuning: how the options of the method were chosen, where they were.
        quantised: the network's results in eight bits, if they were asked for; otherwise not in the file.
        unsigned: whether its file had no checksum, so that a change of it cannot be noticed; not part of the file.
    """

    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    version: Literal[1, 2, 3] = 2
    status: Status
    reason: str | None = None
    traceback: str | None = None
    config: Annotated[FreeForm, BeforeValidator(recordable), AfterValidator(_sectioned)]
    dataset: Name
    model: Name
    method: Name
    seed: int = Field(ge=-(2**63), lt=2**63)  # boards keep it in 64 bits
    unit: Literal["node", "edge"] | None = None
    budget: Budget = Field(default_factory=Budget)
    metrics: Stages = Field(default_factory=Stages)
    latency: list[Latency] | None = None
    size: Size | None = None
    memory: Memory | None = None
    cost: Cost = Field(default_factory=Cost)
    layers: list[Layer] = Field(default_factory=list)
    curve: list[FreeForm] | None = None
    history: dict[str, list[Annotated[FreeForm, AfterValidator(_numbers)]]] | None = None
    predictions: list[Prediction] | None = None
    calibration: Texts | None = None
    characters_per_token: Amount | None = None
    left_alone: list[LeftAlone] | None = None
    warnings: list[str] | None = None
    tuning: FreeForm | None = None
    quantised: Quantised | None = None
    sweep: str | None = None
    fingerprint: Annotated[dict[str, Scalar], AfterValidator(_worded)] = Field(default_factory=dict)
    created: Annotated[str, AfterValidator(_dated)] = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    unsigned: bool = Field(default=False, exclude=True)

    @model_serializer(mode="wrap")
    def _as_written(self, written: SerializerFunctionWrapHandler) -> FreeForm:
        """Serialise without the fields that the record's version does not have."""
        content: FreeForm = written(self)
        return {name: part for name, part in content.items() if self.version >= 3 or name not in SINCE_3}

    @model_validator(mode="before")
    @classmethod
    def _rounded(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        # The configuration is not rounded: a rounded learning rate would make it another cell.
        given = {name: part for name, part in values.items() if name != "checksum"}  # of the file, not of the record
        return {name: part if name == "config" else _plain(part) for name, part in given.items()}

    @model_validator(mode="after")
    def _explained(self) -> "Record":
        if self.status != "done" and not self.reason:
            raise ValueError(f"a record with status {self.status} needs a reason")
        for first, fields in ((2, SINCE_2), (3, SINCE_3)):
            if self.version < first and any(getattr(self, name) is not None for name in fields):
                raise ValueError(f"a record of version {self.version} has none of {', '.join(fields)}")
        return self

    @property
    def finished(self) -> bool:
        """Whether the next sweep may skip this cell: it has a result, though perhaps a bad one."""
        return self.status in FINISHED

    def _content(self) -> dict[str, Any]:
        left_out = set(SINCE_2) if self.version == 1 else set()
        return self.model_dump(exclude=left_out | ({"quantised"} if self.quantised is None else set()))

    @property
    def stamp(self) -> str:
        """An identifier that tells this record from any other of its cell: ``r`` and 16 hexadecimal digits."""
        return f"r{checksum(self._content())}"

    def text(self) -> str:
        """The content of the record's file."""
        content = self._content()
        content["checksum"] = checksum(content)
        return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def checksum(content: Mapping[str, Any]) -> str:
    """The checksum of a record's content; it reveals, for instance, a digit that a bad disk has changed."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def short_traceback(error: BaseException) -> str:
    """The traceback of ``error`` with paths relative to the repository, or to the packages, and no other path."""
    lines = tracebacks.format_exception(error)
    text = "".join(lines).replace(f"{REPOSITORY}/", "").replace(str(Path.home()), "~")
    shortened = []
    for line in text.splitlines():
        head, found, tail = line.partition("site-packages/")
        shortened.append(f'  File "{tail}' if found and head.lstrip().startswith('File "') else line)
    return "\n".join(shortened)


def flat(record: Record) -> dict[str, Any]:
    """The record as one row: identity, budget, every metric, cost and latency ratio, under names fit for a query."""
    kind, value = next(iter(record.budget.requested.items()), (None, None))
    row: dict[str, Any] = {
        name: getattr(record, name)
        for name in (
            "key",
            "dataset",
            "model",
            "method",
            "unit",
            "seed",
            "status",
            "reason",
            "sweep",
            "created",
            "unsigned",
        )
    }
    row |= {"budget": kind, "value": value} | record.budget.achieved.model_dump()
    for stage in ("dense", "pruned", "tuned"):
        metrics = getattr(record.metrics, stage) or Metrics()
        row |= {f"{stage}_{name}": number for name, number in metrics.model_dump().items()}
        row |= {f"{stage}_{name}": value for name, value in _of_language(record, metrics.loss).items()}
    renewed = record.metrics.recalibrated or Metrics()
    row |= {f"recalibrated_{name}": getattr(renewed, name) for name in ("accuracy", "top5", "loss")}
    row |= record.cost.model_dump()
    row |= {f"latency_{m.runtime}_b{m.batch}": m.ratio for m in record.latency or []}
    if record.quantised is not None:
        row |= {f"latency_{m.runtime}_b{m.batch}": m.ratio for m in record.quantised.latency or []}
        for stage, network in (("int8", record.quantised.pruned), ("dense_int8", record.quantised.dense)):
            row |= {f"{stage}_{name}": value for name, value in (network.model_dump() if network else {}).items()}
    for name, part in (("size", record.size), ("memory", record.memory)):
        for key, value in _leaves(part.model_dump() if part else {}):
            row[f"{name}_{key}"] = value
    return row


def _of_language(record: Record, loss: float | None) -> dict[str, float | None]:
    """Perplexity per token and bits per character of a language model's loss (nats per token); None for others."""
    dataset = record.config.get("dataset") or {}
    if loss is None or dataset.get("task") != LANGUAGE_MODEL or not record.characters_per_token:
        return {"perplexity": None, "bits_per_character": None}
    perplexity = math.exp(loss) if loss < LARGEST_EXPONENT else None
    return {"perplexity": perplexity, "bits_per_character": loss / math.log(2) / record.characters_per_token}


def _leaves(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names, joined by underscores, and values of a nested section."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}_{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield name, value
