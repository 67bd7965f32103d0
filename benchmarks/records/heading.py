"""What is known of a cell before anything has been run: the head of its record, and its name for people."""

from collections.abc import Mapping
from typing import Any

BUDGETS = ("keep", "compression", "speedup", "latency")
DEFAULTS = (("compression", "default_compression"), ("keep", "default_keep"))  # the second in older configurations


def heading(config: Mapping[str, Any], key: str) -> dict[str, Any]:
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
    head = heading(config, "")
    [(kind, value), *_] = head["budget"]["requested"].items()
    return f"{head['dataset']}/{head['model']}/{head['method']}/{kind}={value:g}/{head['seed']}"
