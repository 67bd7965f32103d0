"""What the SAP reproductions share: four ways to prune step by step from the same start, and what is said of them.

Every run is a sequence of states t = 0..T: weights after training under the mask m_t, always from the same initial
weights. A state has its remaining weights, test accuracy, and the PQ and Gini index of all its live weights; pruned
once more, without training, it gives the accuracy "pruned".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.boards.stats import paired_t, spread
from benchmarks.figures.looks import Look, look
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.networks import trained
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.scoring import evaluate
from benchmarks.training.trainer import fit
from methods.allocation import Allocation, Global
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.lq.allocation import UniformPerNeuron
from methods.lq.bounds import pq_retained, whole
from methods.lq.sap import SAP, UntilBudget
from methods.network.sparsity import network_sparsity
from methods.pruner import Pruner
from methods.schedule import Iterative, Schedule
from methods.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.data.splits import Data

PAPER = "E. Diao et al., Pruning Deep Neural Networks from a Sparsity Perspective, ICLR 2023"
SHARE = 0.8  # of the live weights that lottery ticket and one-shot pruning keep in each step
SMALLEST = 1e-3  # of the weights: where SAP's own rule would go further, the run ends


class PlainCNN(nn.Sequential):
    """The paper's CNN: 3x3 convolution, batch norm, ReLU, pooling, four times; then the average and a linear layer.

    Args:
        widths: channels; the paper's are 64, 128, 256, 512. The last convolution is not followed by pooling.
        shape: (C, H, W).
        classes: number of outputs.
    """

    def __init__(self, widths: Sequence[int], *, shape: Sequence[int], classes: int) -> None:
        layers: list[nn.Module] = []
        channels = shape[0]
        for number, width in enumerate(widths):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            if number < len(widths) - 1:
                layers.append(nn.MaxPool2d(2))
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@dataclass(frozen=True)
class Run:
    """One way to prune.

    Attributes:
        name: for tables.
        scope: ``global`` or ``neuron``.
        rule: exponents p and q of SAP; None for a fixed share per step.
        from_trained: magnitudes always from the dense network (one-shot) instead of from the last state.
    """

    name: str
    scope: str = "global"
    rule: tuple[float, float] | None = None
    from_trained: bool = False

    def allocation(self) -> Allocation:
        """Counts per layer or neuron."""
        if self.rule is not None:
            return SAP(scope=self.scope, p=self.rule[0], q=self.rule[1])
        return Global() if self.scope == "global" else UniformPerNeuron()


GLOBAL_RUNS = (
    Run("SAP(.5,1)", rule=(0.5, 1.0)),
    Run("SAP(1,2)", rule=(1.0, 2.0)),
    Run("lottery ticket"),
    Run("one-shot", from_trained=True),
)
NEURON_RUNS = (Run("SAP(.5,1)", "neuron", (0.5, 1.0)), Run("lottery ticket", "neuron"))


@dataclass(frozen=True)
class Start:
    """What all runs of one seed share: data, initial weights, the dense network, and how to train."""

    data: Data
    initial: nn.Module
    dense: nn.Module
    settings: TrainerSettings
    seed: int


def start(config: Mapping[str, Any], work: Workplace) -> Start:
    """Load, initialise and train; the dense network is cached."""
    from benchmarks.models import build

    data, dense = trained(work, config)
    settings = TrainerSettings.from_config(config["trainer"]["train"], "trainer.train")
    initial = build(config["model"], data.shape, data.classes, config["seed"])
    return Start(data, initial, dense.model, settings, config["seed"])


def follow(run: Run, begin: Start, steps: int) -> list[dict[str, Any]]:
    """One row per state t = 0..steps."""
    indices = torch.arange(min(64, len(begin.data.train)))  # magnitude looks at no data; the pruner wants some
    calibration = Calibration(begin.data.train.to_inputs(indices), begin.data.train.targets[indices], indices)
    recorder = _Recorder(run, begin)
    recorder.add(begin.dense, {}, 0)
    if run.from_trained:
        for t in range(1, steps + 1):
            result = _pruner(run, Iterative(steps=1, rewind="init")).prune(
                begin.dense, calibration, Budget("keep", SHARE**t), 0, rewind=begin.initial
            )
            recorder.train(result.model, result.masks, t - 1)
        return recorder.rows
    schedule = UntilBudget(steps) if run.rule else Iterative(steps=steps, shape="exponential", rewind="init")
    budget = Budget("keep", SMALLEST if run.rule else SHARE**steps)
    result = _pruner(run, schedule).prune(begin.dense, calibration, budget, 0, recorder.train, begin.initial)
    recorder.train(result.model, result.masks, len(result.steps) - 1)
    return recorder.rows


def _pruner(run: Run, schedule: Schedule) -> Pruner:
    return Pruner(MagnitudeSelection(unit="edge"), run.allocation(), schedule=schedule)


class _Recorder:
    """Trains what the pruner hands over and writes down every state."""

    def __init__(self, run: Run, begin: Start) -> None:
        self.run, self.begin = run, begin
        self.rows: list[dict[str, Any]] = []

    def train(self, network: nn.Module, masks: Mapping[str, Tensor], step: int) -> None:
        """Train state ``step`` + 1, in place."""
        begin = self.begin
        fit(network, begin.data, begin.settings, derive_seed(begin.seed, "step", step), masks=masks)
        self.add(network, masks, step + 1)

    def add(self, network: nn.Module, masks: Mapping[str, Tensor], t: int) -> None:
        """The row of one trained state, and of what it is pruned to next."""
        weights = {name: value.detach() for name, value in network.named_parameters() if value.ndim > 1}
        live = [value[masks[name]] if name in masks else value.flatten() for name, value in weights.items()]
        left, total = sum(len(piece) for piece in live), sum(value.numel() for value in weights.values())
        vector = torch.cat(live)
        row = {"scope": self.run.scope, "method": self.run.name, "t": t, "left": left, "total": total}
        row |= {"seed": self.begin.seed, "accuracy": 100 * (evaluate(network, self.begin.data.test).accuracy or 0.0)}
        row |= network_sparsity(weights, masks)
        if self.run.rule is not None and self.run.scope == "global":
            row["next"] = left - min(int(left - whole(pq_retained(vector, *self.run.rule))), int(0.9 * left))
        if not self.run.from_trained:
            row["pruned"] = 100 * self._pruned_once(network, masks, left)
        self.rows.append(row)

    def _pruned_once(self, network: nn.Module, masks: Mapping[str, Tensor], left: int) -> float:
        """Test accuracy after one more step of the fixed share, global and without training: a common yardstick."""
        smaller = copy.deepcopy(network)
        named = {name: value for name, value in smaller.named_parameters() if value.ndim > 1}
        magnitudes = torch.cat(
            [
                (
                    value.detach().abs() if name not in masks else value.detach().abs().masked_fill(~masks[name], -1)
                ).flatten()
                for name, value in named.items()
            ]
        )
        threshold = magnitudes.sort(descending=True).values[max(int(SHARE * left) - 1, 0)]
        with torch.no_grad():
            for value in named.values():
                value.mul_(value.abs() >= threshold)
        return evaluate(smaller, self.begin.data.test).accuracy or 0.0


def outcome(
    rows: Sequence[Mapping[str, Any]], published: Mapping[tuple[str, str, int], float], setting: str
) -> Outcome:
    """Table, claims and figure of all runs."""
    table = _table(rows, published)
    scopes = list(dict.fromkeys(row["scope"] for row in rows))
    claims = [_follows_rule(rows, name) for name in ("SAP(.5,1)", "SAP(1,2)")]
    claims += [_follows_share(rows, "lottery ticket"), _follows_share(rows, "one-shot"), _faster(rows)]
    claims += [_falls_first(rows, name) for name in ("SAP(.5,1)", "lottery ticket")]
    claims += [_rises_with_damage(rows), _order(rows)]
    claims += [_at_equal_size(rows, "global", "SAP(.5,1)", other) for other in ("lottery ticket", "one-shot")]
    if "neuron" in scopes:
        claims.append(_at_equal_size(rows, "neuron", "SAP(.5,1)", "lottery ticket"))
    return Outcome(table, claims, setting)


def _table(rows: Sequence[Mapping[str, Any]], published: Mapping[tuple[str, str, int], float]) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for (scope, method, t), own in _grouped(rows):
        left = spread(100 * row["left"] / row["total"] for row in own)
        known = published.get((scope, method, t))
        line: dict[str, Any] = {"scope": scope, "method": method, "t": t, "what": "remaining weights %"}
        line |= {"published": known, "ours": left.mean, "std": left.std, "n": left.n}
        line["difference"] = None if known is None or left.mean is None else left.mean - known
        for name in ("accuracy", "pruned", "pq_index", "gini"):
            values = spread(row.get(name) for row in own)
            line |= {name: values.mean, f"{name} std": values.std}
        lines.append(line)
    return pd.DataFrame(lines)


def _grouped(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str, int], list[Mapping[str, Any]]]]:
    keys = list(dict.fromkeys((row["scope"], row["method"], row["t"]) for row in rows))
    for key in keys:
        yield key, [row for row in rows if (row["scope"], row["method"], row["t"]) == key]


def _runs(rows: Sequence[Mapping[str, Any]], method: str, scope: str = "global") -> list[list[Mapping[str, Any]]]:
    """States in order, one list per seed."""
    own = [row for row in rows if row["method"] == method and row["scope"] == scope]
    return [[row for row in own if row["seed"] == seed] for seed in sorted({row["seed"] for row in own})]


def _follows_rule(rows: Sequence[Mapping[str, Any]], method: str) -> Claim:
    steps = [pair for states in _runs(rows, method) for pair in pairwise(states)]
    exact = [before["next"] == after["left"] for before, after in steps]
    product = "1 - I" if "(.5" in method else "(1 - I)^2"
    return Claim(
        f"{method}, global: every step leaves the product of {product} of the live weights, to the weight",
        all(exact) and bool(exact),
        f"{sum(exact)} of {len(exact)} steps",
    )


def _follows_share(rows: Sequence[Mapping[str, Any]], method: str) -> Claim:
    states = [row for run in _runs(rows, method) for row in run]
    off = [abs(row["left"] - SHARE ** row["t"] * row["total"]) for row in states]
    return Claim(
        f"{method}, global: 0.8^t of the weights remain, to the weight",
        bool(off) and max(off) <= 1,
        f"{len(off)} states, largest difference {max(off):.2f} weights",
    )


def _faster(rows: Sequence[Mapping[str, Any]]) -> Claim:
    slow, fast = _runs(rows, "SAP(.5,1)"), _runs(rows, "SAP(1,2)")
    pairs = [
        (a["left"], b["left"])
        for one, two in zip(slow, fast, strict=True)
        for a, b in zip(one[1:], two[1:], strict=False)
    ]
    return Claim(
        "SAP(1,2) prunes faster than SAP(.5,1), from the first step on",
        all(b < a for a, b in pairs),
        f"fewer weights in {sum(b < a for a, b in pairs)} of {len(pairs)} states",
    )


def _falls_first(rows: Sequence[Mapping[str, Any]], method: str) -> Claim:
    changes = [run[1]["pq_index"] - run[0]["pq_index"] for run in _runs(rows, method)]
    lowest = [min(range(len(run)), key=lambda t: run[t]["pq_index"]) for run in _runs(rows, method)]
    first, low = (", ".join(f"{value:+.3f}" for value in changes), ", ".join(map(str, lowest)))
    return Claim(
        f"{method}, global: the PQ index of the live weights falls when pruning begins",
        all(change < 0 for change in changes),
        f"change in the first step {first}; lowest at t = {low}",
    )


def _rises_with_damage(rows: Sequence[Mapping[str, Any]]) -> Claim:
    """Only runs that lose at least five points can say anything."""
    damaged, rising = [], []
    for run in (states for method in ("SAP(.5,1)", "SAP(1,2)", "lottery ticket") for states in _runs(rows, method)):
        best = max(row["accuracy"] for row in run)
        if run[-1]["accuracy"] < best - 5:
            damaged.append(run)
            rising.append(run[-1]["pq_index"] > min(row["pq_index"] for row in run[:-1]))
    return Claim(
        "the PQ index rises again where accuracy starts to drop",
        None if not damaged else all(rising),
        f"{len(damaged)} runs lose five points or more; in {sum(rising)} of them the index ends above its minimum",
    )


def _order(rows: Sequence[Mapping[str, Any]]) -> Claim:
    names = ("lottery ticket", "SAP(.5,1)", "one-shot", "SAP(1,2)")
    last = max(row["t"] for row in rows)
    means = [spread(run[-1]["accuracy"] for run in _runs(rows, name)).mean or 0.0 for name in names]
    listed = ", ".join(f"{name} {mean:.2f} %" for name, mean in zip(names, means, strict=True))
    return Claim(
        f"accuracy at equal t: {' >= '.join(names)} (read off the paper's figure at t = 30)",
        all(a >= b for a, b in pairwise(means)),
        f"at t = {last}: {listed}; they have different numbers of weights",
    )


def _at_equal_size(rows: Sequence[Mapping[str, Any]], scope: str, first: str, second: str) -> Claim:
    """Accuracy of ``first`` minus that of ``second``, interpolated in the logarithm of the remaining weights."""
    import numpy as np

    differences = []
    for one, two in zip(_runs(rows, first, scope), _runs(rows, second, scope), strict=True):
        log = [np.log([row["left"] / row["total"] for row in run])[::-1] for run in (one, two)]
        accuracy = [np.array([row["accuracy"] for row in run])[::-1] for run in (one, two)]
        low, high = max(log[0][0], log[1][0]), -1e-9
        points = [x for x in log[0] if low <= x < high]
        if points:
            both = (np.interp(points, own, values) for own, values in zip(log, accuracy, strict=True))
            differences.append(float(np.mean(next(both) - next(both))))
    result = paired_t(differences)
    decided = result.p is not None and result.p < 0.05
    return Claim(
        f"{scope} scope: {first} beats {second} at equal remaining weights",
        None if not decided else (result.difference or 0) > 0,
        f"mean difference {', '.join(f'{d:+.2f}' for d in differences)} points per seed"
        + (f", p = {result.p:.2g}" if result.p is not None else ", too few seeds to test"),
    )


LOOKS = {
    "SAP(.5,1)": look("sap"),
    "SAP(1,2)": Look("#d55e00", "triangle-up", (6, 3)),
    "lottery ticket": Look("#0d7fc4", "circle", (8, 2, 2, 2)),
    "one-shot": Look("#7d7d7d", "diamond", (2, 2)),
}


def headline(outcome: Outcome) -> str:
    """How many weights each rule leaves after the last step, in words."""
    table = outcome.table[outcome.table["scope"] == "global"]
    last = table[table["t"] == table["t"].max()].set_index("method")["ours"]
    left = [f"{method} {last[method]:.0f} %" for method in ("SAP(.5,1)", "SAP(1,2)", "lottery ticket")]
    return f"weights left after {table['t'].max()} prunings: {', '.join(left)}"


def board(outcome: Outcome, title: str) -> Sheet:
    """Remaining weights by step, and accuracy and both indices against the remaining weights."""
    table = outcome.table
    runs = list(dict.fromkeys(zip(table["scope"], table["method"], strict=True)))
    compared = bool(table["published"].notna().any())
    sheet = Sheet(
        title,
        rows=2,
        columns=2,
        height=2.5,
        note=f"Means over {table['n'].max():g} seeds, bars: sample standard deviation. PQ index (p = 0.5, q = 1) and "
        "Gini index of the live weights: larger is sparser."
        + (" Published: read off the paper's figure." if compared else ""),
        key=[Sign("ours"), Sign("published", line=False, filled=False)] if compared else [],
    )
    steps = sheet.panel(0, 0, "how fast each rule prunes")
    others = {
        "accuracy": (sheet.panel(0, 1, "accuracy"), "test accuracy, %", (0.0, 100.0)),
        "pq_index": (sheet.panel(1, 0, "sparsity of what is left"), "PQ index", (0.0, 1.0)),
        "gini": (sheet.panel(1, 1, "the same by the Gini index"), "Gini index", (0.0, 1.0)),
    }
    steps.label("prunings", "remaining weights, %", (0, 100))
    for panel, said, bounds in others.values():
        panel.label("remaining weights, %", said, bounds)
    for scope, method in runs:
        own = table[(table["scope"] == scope) & (table["method"] == method)]
        each = scope == "neuron"
        style = (
            replace(LOOKS[method], shape="triangle-left" if method == "lottery ticket" else "cross")
            if each
            else LOOKS[method]
        )
        name = f"{method},\nper neuron" if each else method
        steps.line(own["t"], own["ours"], style, "", own["std"].fillna(0))
        steps.points(own["t"], own["published"], style, filled=False, size=6.5)
        for column, (panel, _, _) in others.items():
            label = name if panel is not others["pq_index"][0] else ""
            panel.line(own["ours"], own[column], style, label, own[f"{column} std"].fillna(0))
    steps.log("y")
    steps.whole("x")
    for panel, _, _ in others.values():
        panel.log("x", falling=True)
    return sheet
