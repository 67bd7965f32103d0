"""Rows for the charts: plain dictionaries, averaged over seeds, in a fixed order.

Accuracies become percentages here; ``low`` and ``high`` are the mean minus and plus one sample standard deviation.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.latencies import latency_columns
from benchmarks.boards.stats import Spread, spread
from benchmarks.records.schema import Record
from benchmarks.storage.paths import safe_name

Point = dict[str, Any]
Pair = tuple[str, str]
STAGES = {"pruned": "before fine-tuning", "tuned": "after fine-tuning"}
MOST_LINES = 8  # of one chart: more cannot be told apart
DENSE, TRAINING = "dense network", "training"  # labels used where no method is involved
CONTROLS = ("random", "magnitude", "random_edge", "magnitude_edge")
UNITS = {
    "node": "structured",
    "edge": "unstructured",
    "eigen": "structured, in an eigenbasis",
}  # what the field calls them
MOST_EPOCHS = 60  # of a curve on the page; longer ones are thinned out


def pairs(cells: Iterable[Cell]) -> list[Pair]:
    """The (data set, model) pairs."""
    return sorted({(cell["dataset"], cell["model"]) for cell in cells})


def stem(pair: Pair) -> str:
    """The base name of the pair's figures and anchors; a name with brackets is cut and made unique by a digest."""
    name = safe_name("_".join(pair))
    if "[" not in pair[1]:
        return name
    return f"{name[:48]}_{hashlib.sha256('/'.join(pair).encode()).hexdigest()[:6]}"


def of_pair(cells: Iterable[Cell], pair: Pair) -> list[Cell]:
    """The cells of one pair that ended well."""
    return [cell for cell in cells if (cell["dataset"], cell["model"]) == pair and cell["status"] == "done"]


def budget_name(kind: str | None, value: float | None) -> str:
    """The readable name of a budget: ``keep 0.2``."""
    return f"{kind} {value:g}" if kind and value is not None else "no budget"


def by_unit(cells: Iterable[Cell]) -> list[tuple[str, list[Cell]]]:
    """The cells of each unit, nodes before edges; those that are not known to be of edges are taken to be of nodes."""
    own: dict[str, list[Cell]] = {unit: [] for unit in UNITS}
    for cell in cells:
        own["edge" if cell.get("unit") == "edge" else "node"].append(cell)
    return [(unit, members) for unit, members in own.items() if members]


def quantity(cells: Sequence[Cell]) -> tuple[str, float, str]:
    """What the pair is judged by: the metric's name, its factor, and the axis title with its unit."""
    if any(cell.get("tuned_accuracy") is not None for cell in cells):
        return "accuracy", 100.0, "test accuracy (%)"
    return "loss", 1.0, "test loss"


def ratios(cells: Sequence[Cell]) -> dict[str, str]:
    """The columns that can be the x axis of a trade-off, with their titles."""
    found = {
        "compression": "compression (original / remaining parameters)",
        "speedup": "speed-up in MACs (original / remaining)",
    }
    for name in latency_columns(cells):
        runtime, _, batch = name.removeprefix("latency_").rpartition("_b")
        found[name] = f"measured speed-up ({runtime}, batch {batch})"
    return {name: title for name, title in found.items() if any(cell.get(name) is not None for cell in cells)}


def shown(cells: Sequence[Cell]) -> tuple[set[str], str]:
    """The settings that charts show, and what to say of the others: the best on average over budgets, and the controls.

    The average is over the budgets at which most settings have been run, so that a single easy budget is no advantage.
    Settings with unusual training or calibration come last.
    """
    name, factor, _ = quantity(cells)
    sign = -factor if name == "loss" else factor
    by_name: dict[str, dict[tuple[Any, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.get(f"tuned_{name}") is not None:
            by_name[cell["name"]][cell["budget"], cell["value"]].append(sign * cell[f"tuned_{name}"])
    if len(by_name) <= MOST_LINES:
        return set(by_name), ""
    usual = {cell["name"] for cell in cells if cell["usual"]}
    budgets = Counter(budget for found in by_name.values() for budget in found)
    common = {budget for budget, count in budgets.items() if count >= 0.5 * max(budgets.values())}

    def merit(item: tuple[str, dict[tuple[Any, ...], list[float]]]) -> tuple[bool, float, float, str]:
        label, found = item
        means = [sum(values) / len(values) for budget, values in found.items() if budget in common]
        return label not in usual, -len(means), -sum(means) / len(means) if means else 0.0, label

    order = [label for label, _ in sorted(by_name.items(), key=merit)]
    controls = [label for label in order if label.partition(" [")[0] in CONTROLS][: MOST_LINES - 1]
    best = [label for label in order if label not in controls][: MOST_LINES - len(controls)]
    return {*best, *controls}, f"The best {len(best)} of {len(order)} settings and the controls; the boards have all. "


def trade_off(cells: Sequence[Cell], ratio: str) -> list[Point]:
    """One point per method, budget and stage: the mean ratio, and the metric's mean and spread over seeds.

    ``front`` marks the points that no other of their stage beats in both: the Pareto front.
    """
    name, factor, _ = quantity(cells)
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.get(ratio) is not None:
            groups[cell["name"], cell["budget"] or "", cell["value"] or 0.0].append(cell)
    points = []
    for (label, kind, value), members in sorted(groups.items()):
        for stage, words in STAGES.items():
            summary = spread(_scaled(members, f"{stage}_{name}", factor))
            if summary.mean is not None:
                ratio_mean = spread(cell[ratio] for cell in members).mean
                where = {"method": label, "budget": budget_name(kind, value), "stage": words}
                where |= {"kind": kind, "place": value}
                points.append({**where, "ratio": ratio_mean, **_band(summary)})
    for stage in STAGES.values():
        own = [point for point in points if point["stage"] == stage]
        for point in own:
            point["front"] = not any(_beats(other, point, name == "loss") for other in own)
    return points


def _beats(other: Point, point: Point, smaller: bool) -> bool:
    sign = -1.0 if smaller else 1.0
    gains = (other["ratio"] - point["ratio"], sign * (other["mean"] - point["mean"]))
    return min(gains) >= 0 and max(gains) > 0


def dense_level(cells: Sequence[Cell]) -> float | None:
    """The metric of the networks before pruning, each counted once."""
    name, factor, _ = quantity(cells)
    networks = {cell["dense_key"]: cell.get(f"dense_{name}") for cell in cells}
    mean = spread(networks.values()).mean
    return None if mean is None else _rounded(mean * factor)


def heat(cells: Sequence[Cell]) -> list[Point]:
    """Selection × compensation: mean over seeds (and allocations) for every budget and stage.

    A selection with only one compensation at a budget is left out there, since it does not show which part matters.
    """
    name, factor, _ = quantity(cells)
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        part = compensation_name(cell)
        groups[cell["method"], part, cell["budget"] or "", cell["value"] or 0.0].append(cell)
    repairs = Counter((method, kind, value) for method, _part, kind, value in groups)
    points = []
    for (method, part, kind, value), members in sorted(groups.items()):
        if repairs[method, kind, value] < 2:
            continue
        for stage, words in STAGES.items():
            summary = spread(_scaled(members, f"{stage}_{name}", factor))
            if summary.mean is not None:
                where = {"selection": method, "compensation": part, "budget": budget_name(kind, value), "stage": words}
                points.append({**where, **_band(summary)})
    return points


def compensation_name(cell: Cell) -> str:
    """The compensation of a cell, for people: the words of its class, acronyms left as they are."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", (cell["compensation"] or "").removesuffix("Compensation"))
    return " ".join(word if word.isupper() else word.lower() for word in words) or "none"


def widths(records: Sequence[Record], labels: Mapping[str, str]) -> list[Point]:
    """The fraction of units that each method keeps in each layer, averaged over seeds."""
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    sizes: dict[str, int] = {}
    order: dict[str, int] = {}
    # edge methods see more layers than node methods: their order holds all of a network's
    for record in sorted(records, key=lambda record: (-len(record.layers), record.key)):
        for layer in record.layers:
            order.setdefault(layer.name, len(order))
    for record in records:
        kind, value = next(iter(record.budget.requested.items()), (None, None))
        for layer in record.layers:
            sizes[layer.name] = layer.units
            if layer.units:
                groups[labels[record.key], budget_name(kind, value), layer.name].append(100 * layer.kept / layer.units)
    return [
        {
            "method": label,
            "budget": budget,
            "layer": name,
            "order": order[name],
            "units": sizes[name],
            **_band(spread(kept)),
        }
        for (label, budget, name), kept in sorted(groups.items())
    ]


def curves(records: Sequence[Record], labels: Mapping[str, str]) -> tuple[list[Point], list[Point]]:
    """Validation accuracy (or loss) by epoch: the dense training once, the fine-tuning of each method and budget."""
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    seen: set[tuple[Any, ...]] = set()
    for record in records:
        kind, value = next(iter(record.budget.requested.items()), (None, None))
        for phase, epochs in (record.history or {}).items():
            training = phase == "train"
            if training and (record.seed,) in seen:
                continue
            who = (DENSE, TRAINING) if training else (labels[record.key], budget_name(kind, value))
            for row in epochs:
                number = row.get("validation_accuracy")
                number = row.get("validation_loss") if number is None else 100 * number
                if number is not None and row.get("epoch") is not None:
                    groups[*who, int(row["epoch"])].append(number)
        seen.add((record.seed,))
    last: dict[tuple[Any, ...], int] = defaultdict(int)
    for label, budget, epoch in groups:
        last[label, budget] = max(last[label, budget], epoch)
    points = []
    for (label, budget, epoch), found in sorted(groups.items()):
        step = -(-last[label, budget] // MOST_EPOCHS)
        if epoch % step == 0 or epoch == last[label, budget]:
            points.append({"method": label, "budget": budget, "epoch": epoch, **_band(spread(found))})
    return [p for p in points if p["method"] == DENSE], [p for p in points if p["method"] != DENSE]


def _scaled(cells: Iterable[Cell], column: str, factor: float) -> list[float | None]:
    return [None if cell.get(column) is None else cell[column] * factor for cell in cells]


def _band(summary: Spread) -> Point:
    mean, std = summary.mean or 0.0, summary.std or 0.0
    figures = {"mean": mean, "low": mean - std, "high": mean + std, "std": summary.std}
    return {name: None if value is None else _rounded(value) for name, value in figures.items()} | {"n": summary.n}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
