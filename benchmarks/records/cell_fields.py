"""What is known of a cell before it is run: the head of its record, and a readable title."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.records.schema import Record

BUDGETS = ("keep", "compression", "speedup", "latency")
DEFAULTS = (("compression", "default_compression"), ("keep", "default_keep"))  # the second in older configurations


def cell_fields(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Fields of the record of the cell that ``config`` describes."""
    budget = config["budget"]
    given = {kind: budget[kind] for kind in BUDGETS if budget.get(kind) is not None}
    return {
        "key": key,
        "config": config,
        "dataset": config["dataset"]["name"],
        "model": config["model"].get("name") or config["model"]["_target_"].rsplit(".", 1)[-1],
        "method": config["method"]["name"],
        "seed": config["seed"],
        "sweep": config.get("_sweep"),
        "budget": {"requested": given or {kind: budget[default] for kind, default in DEFAULTS if budget.get(default)}},
    }


def title(config: Mapping[str, Any]) -> str:
    """Data set, model, method, budget and seed on one line."""
    head = cell_fields(config, "")
    return _title(head["dataset"], head["model"], head["method"], head["budget"]["requested"], head["seed"])


def title_of(record: "Record") -> str:
    """The same line for a record, whatever its configuration has or lacks."""
    return _title(record.dataset, record.model, record.method, record.budget.requested, record.seed)


def _title(dataset: str, model: str, method: str, requested: Mapping[Any, float], seed: int) -> str:
    asked = next((f"{kind}={value:g}" for kind, value in requested.items()), "no budget")
    return f"{dataset}/{model}/{method}/{asked}/{seed}"
