"""One cell, one record: what its file holds, and nothing else; the only source of the boards.

Numbers keep seven significant digits, keys are sorted, and what is not a number (NaN, infinity) is null, so that files
are small and their differences readable.
"""

import hashlib
import json
import math
import traceback as tracebacks
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from benchmarks.records.keys import recordable
from benchmarks.storage.paths import REPOSITORY

SCHEMA = 1
DIGITS = 7
FINISHED = frozenset({"done", "collapsed", "skipped"})

Status = Literal["done", "failed", "collapsed", "skipped"]
FreeForm = dict[str, Any]


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


class Part(BaseModel):
    """A part of a record: no field but the declared ones, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Budget(Part):
    """How small the network was asked to become, as ``{kind: value}``, and how small it became."""

    requested: dict[Literal["keep", "compression", "speedup", "latency"], float] = Field(
        default_factory=dict, max_length=1
    )
    achieved: "Achieved" = Field(default_factory=lambda: Achieved())
    note: str | None = None


class Achieved(Part):
    """Ratios original / remaining of parameters and MACs, the fraction of units kept, and of time where it counted."""

    compression: float | None = None
    speedup: float | None = None
    keep: float | None = None
    latency: float | None = None


class Metrics(Part):
    """One network, measured on the test split. Accuracies are fractions; MACs are of one sample."""

    accuracy: float | None = None
    top5: float | None = None
    loss: float | None = None
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    macs_effective: int | None = None


class Stages(Part):
    """The dense network, the pruned one before fine-tuning, that with new batch-norm statistics, the fine-tuned one."""

    dense: Metrics | None = None
    pruned: Metrics | None = None
    recalibrated: Metrics | None = None
    tuned: Metrics | None = None


class Latency(Part):
    """Dense against pruned, interleaved in one process; ``ratio`` = dense / pruned, above 1 when pruning is faster."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)  # a runtime may add its own figures

    runtime: str
    batch: int
    dense_ms: float | None = None
    pruned_ms: float | None = None
    dense_iqr_ms: float | None = None
    pruned_iqr_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    pairs: int | None = None
    note: str | None = None


class Cost(Part):
    """What pruning itself took."""

    dense_seconds: float | None = None
    prune_seconds: float | None = None
    tune_seconds: float | None = None
    peak_memory_mb: float | None = None
    calibration_samples: int | None = None


class FileSize(Part):
    """Bytes of one network: as a plain file of its tensors, with zeros left out, and that compressed."""

    bytes: int
    encoded: int
    compressed: int


class Size(Part):
    """The dense and the pruned network on disk."""

    dense: FileSize
    pruned: FileSize


class Memory(Part):
    """Peak memory in a process of its own: of inference with the two networks, and of pruning."""

    batch: int
    dense_mb: float | None = None
    pruned_mb: float | None = None
    prune_mb: float | None = None
    note: str | None = None


class Layer(Part):
    """One layer or coupled group, and whatever numbers the method reports of it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    name: str
    units: int
    kept: int


class Prediction(Part):
    """What a theory predicts of the damage of pruning, beside what was measured; ``layer`` None means the network."""

    theory: str
    layer: str | None = None
    predicted: float | None = None
    measured: float | None = None
    unit: str | None = None


class Record(Part):
    """The result of one cell."""

    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    version: Literal[1] = 1
    status: Status
    reason: str | None = None
    traceback: str | None = None
    config: Annotated[FreeForm, BeforeValidator(recordable)]
    dataset: str
    model: str
    method: str
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
    history: dict[str, list[FreeForm]] | None = None
    predictions: list[Prediction] | None = None
    sweep: str | None = None
    fingerprint: FreeForm = Field(default_factory=dict)
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @model_validator(mode="before")
    @classmethod
    def _rounded(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        # The configuration is left as it is: a rounded learning rate would be another cell.
        given = {name: part for name, part in values.items() if name != "checksum"}  # of the file, not of the record
        return {name: part if name == "config" else _plain(part) for name, part in given.items()}

    @model_validator(mode="after")
    def _explained(self) -> "Record":
        if self.status != "done" and not self.reason:
            raise ValueError(f"a record with status {self.status} needs a reason")
        return self

    @property
    def finished(self) -> bool:
        """Whether the next sweep may skip this cell: it has a result, though perhaps a bad one."""
        return self.status in FINISHED

    def text(self) -> str:
        """The content of the record's file."""
        content = self.model_dump(exclude_none=False)
        content["checksum"] = checksum(content)
        return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def checksum(content: Mapping[str, Any]) -> str:
    """Of a record's content: a digit that a bad disk has turned into another one still makes a number."""
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
        for name in ("key", "dataset", "model", "method", "unit", "seed", "status", "reason", "sweep", "created")
    }
    row |= {"budget": kind, "value": value} | record.budget.achieved.model_dump()
    for stage in ("dense", "pruned", "tuned"):
        metrics = getattr(record.metrics, stage) or Metrics()
        row |= {f"{stage}_{name}": number for name, number in metrics.model_dump().items()}
    renewed = record.metrics.recalibrated or Metrics()
    row |= {f"recalibrated_{name}": getattr(renewed, name) for name in ("accuracy", "top5", "loss")}
    row |= record.cost.model_dump()
    row |= {f"latency_{m.runtime}_b{m.batch}": m.ratio for m in record.latency or []}
    for name, part in (("size", record.size), ("memory", record.memory)):
        for key, value in _leaves(part.model_dump() if part else {}):
            row[f"{name}_{key}"] = value
    return row


def _leaves(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names, joined by underscores, and values of a nested section."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}_{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield name, value
