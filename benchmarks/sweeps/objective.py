"""What a job returns to a sweeper that optimises: metrics that do not use the test split.

`objective=validation_accuracy` is the default; `objective=[validation_accuracy,macs]` gives several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.records.schema import Record
from methods.errors import BadInput

DEFAULT = "validation_accuracy"


def _best(name: str, choose: Callable[..., float]) -> Callable[[Record], float | None]:
    """The best value over the epochs of fine-tuning; the final network is that of the best epoch."""

    def read(record: Record) -> float | None:
        rows = (record.history or {}).get("finetune") or []
        found = [row[name] for row in rows if row.get(name) is not None]
        return choose(found) if found else None

    return read


def _count(name: str) -> Callable[[Record], float | None]:
    """A metric of the final network that is not computed on the test split."""

    def read(record: Record) -> float | None:
        return getattr(record.metrics.tuned, name, None)

    return read


OBJECTIVES: dict[str, Callable[[Record], float | None]] = {
    "validation_accuracy": _best("validation_accuracy", max),
    "validation_loss": _best("validation_loss", min),
    "parameters": _count("parameters"),
    "nonzero": _count("nonzero"),
    "macs": _count("macs"),
    "keep": lambda record: record.budget.achieved.keep,
    "compression": lambda record: record.budget.achieved.compression,
    "speedup": lambda record: record.budget.achieved.speedup,
    "latency": lambda record: record.latency[0].ratio if record.latency else None,
    "prune_seconds": lambda record: record.cost.prune_seconds,
    "tune_seconds": lambda record: record.cost.tune_seconds,
}
OF_THE_TEST_SPLIT = {"accuracy", "loss", "top5", "test_accuracy", "test_loss"}


def objectives(config: Mapping[str, Any]) -> list[str] | None:
    """The names under ``objective``; None where none is given, which stands for the default.

    Raises:
        BadInput: a name is unknown, or stands for a figure on the test split.
    """
    given = config.get("objective")
    if given is None:
        return None
    names = list(given) if isinstance(given, list | tuple) else [given]
    for name in names:
        last = str(name).rpartition(".")[2]
        if last in OF_THE_TEST_SPLIT or "test" in str(name):
            raise BadInput(
                f"objective={name} would choose by the test split, which is read once, when all is decided;\n"
                f"type objective={DEFAULT}"
            )
        if name not in OBJECTIVES:
            raise BadInput(f"objective={name} is unknown; choose from {', '.join(OBJECTIVES)}")
    if not names:
        raise BadInput(f"objective=[] names nothing; type objective={DEFAULT}")
    if (config.get("trainer") or {}).get("finetune", {}).get("epochs") == 0:
        for name in (name for name in names if name.startswith("validation")):
            raise BadInput(
                f"objective={name} is taken from fine-tuning, of which there is none; type trainer.finetune.epochs=1"
            )
    return names


def objective(record: Record, names: list[str] | None) -> float | tuple[float, ...] | None:
    """The figures of ``record`` that ``names`` stand for, one number for one name; NaN where a cell has no figure.

    With ``names`` None the validation accuracy, or the loss where the task is regression, or None.
    """
    if names is None:
        usual = (OBJECTIVES[name](record) for name in (DEFAULT, "validation_loss"))
        return next((float(value) for value in usual if value is not None), None)
    values = tuple(math.nan if (value := OBJECTIVES[name](record)) is None else float(value) for name in names)
    return values if len(values) > 1 else values[0]
