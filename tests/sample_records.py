"""Records for tests."""

from benchmarks.records.keys import cell_key
from benchmarks.records.schema import Record


def made(seed=0, status="done", **fields):
    """A sound record of one cell; ``fields`` replace or add."""
    config = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "budget": {"keep": 0.2}, "seed": seed}
    config |= fields.pop("settings", {})
    values = {
        "key": cell_key(config),
        "status": status,
        "reason": None if status == "done" else "because",
        "config": config,
        "dataset": "digits",
        "model": "mlp",
        "method": "spectral",
        "seed": seed,
        "unit": "node",
        "budget": {"requested": {"keep": 0.2}, "achieved": {"compression": 4.0}},
        "metrics": {"dense": {"accuracy": 0.98, "parameters": 1000}, "pruned": {"accuracy": 0.91}},
        "layers": [{"name": "0", "units": 10, "kept": 2, "information_loss": 0.25}],
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Record(**(values | fields))
