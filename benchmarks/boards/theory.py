"""The theory board: which theory best predicts the damage of pruning.

    python -m benchmarks.leaderboard --theory

Every method comes with a theory that predicts its damage. A record holds what each theory predicted before
fine-tuning, per layer (``layer`` is its name) or for the network (``layer`` is null), beside what was measured. Numbers
that a method reports of its layers and that are predictions by nature (information losses, predicted loss increases)
are taken from the layers of the record, summed for the network.

A predictor is judged by rank correlation: over all points, and within groups in which only one thing varies (layers of
a cell, budgets of a method and seed, methods at a budget and seed), averaged over the groups. Intervals are 95 %
percentile bootstraps that resample whole cells, or whole groups, since points of one cell are not independent.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.boards.frame import select
from benchmarks.boards.labels import label
from benchmarks.boards.tables import NONE, Table, csv_text
from benchmarks.records.keys import variant_key
from benchmarks.records.schema import Metrics, Record
from benchmarks.records.store import Store
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 300
FEWEST = 3  # points of a group, and clusters of a bootstrap
REPORTED = {  # numbers of a record's layers that predict damage: the theory's name, and its unit
    "loss": ("spectral information loss", None),
    "input_loss": ("spectral input information loss", None),
    "output_loss": ("spectral output information loss", None),
    "loss_bound": ("spectral bound on the information loss", None),
    "predicted_increase": ("predicted loss increase", "loss"),
    "tail_bound": ("lq bound on the removed weights", None),
    "output_bound": ("lq bound on the output error", "output error"),
}
OUTCOMES = ("measured", "loss increase", "accuracy drop before fine-tuning", "accuracy drop after fine-tuning")


@dataclass(frozen=True)
class Point:
    """One prediction and one outcome."""

    theory: str
    unit: str | None
    outcome: str
    layer: str | None
    predicted: float
    measured: float
    key: str
    dataset: str
    model: str
    method: str
    budget: str
    seed: int
    variant: str = ""  # the setting, but for budget and seed

    @property
    def scope(self) -> str:
        """Whether the point describes a layer or the network."""
        return "network" if self.layer is None else "layer"

    def row(self) -> dict[str, Any]:
        """For a chart or a file."""
        return {**asdict(self), "scope": self.scope}


def points(records: Iterable[Record]) -> list[Point]:
    """All predictions of ``records`` paired with every outcome of the same scope."""
    found = []
    for record in records:
        kind, value = next(iter(record.budget.requested.items()), (None, None))
        where: dict[str, Any] = {
            "key": record.key,
            "dataset": record.dataset,
            "model": record.model,
            "method": label(record),
            "budget": f"{kind} {value:g}" if kind else "",
            "seed": record.seed,
            "variant": variant_key({name: part for name, part in record.config.items() if name != "budget"}),
        }
        outcomes = _outcomes(record)
        for theory, unit, layer, predicted, measured in _predictions(record):
            known = {"measured": measured} | (outcomes if layer is None else {})
            for outcome, number in known.items():
                if number is not None and math.isfinite(number):
                    found.append(Point(theory, unit, outcome, layer, predicted, number, **where))
    return found


def _predictions(record: Record) -> Iterable[tuple[str, str | None, str | None, float, float | None]]:
    for prediction in record.predictions or []:
        if prediction.predicted is not None:
            yield prediction.theory, prediction.unit, prediction.layer, prediction.predicted, prediction.measured
    if (record.config.get("schedule") or {}).get("rewind", "none") not in (None, "none"):
        return  # predictions for weights that were then replaced, by those of another training or by random ones
    given = {prediction.theory for prediction in record.predictions or []}
    for name, (theory, unit) in REPORTED.items():
        own = f"{theory} ({record.method})" if unit else theory
        if theory.startswith("spectral") and not _repaired(record):
            own += ", without its reconstruction"
        values = [(layer.name, _number(layer, name), _number(layer, "output_error")) for layer in record.layers]
        known = [(layer, value, error) for layer, value, error in values if value is not None]
        if own in given or not known:
            continue
        for layer, value, error in known:
            yield own, None, layer, value, error
        if len(known) == len(values):
            yield own, unit, None, math.fsum(value for _, value, _ in known), None


def _repaired(record: Record) -> bool:
    """Whether there is a compensation for the removed units, as the theory of spectral pruning assumes."""
    target = str((record.config.get("compensation") or {}).get("_target_", ""))
    return target.rpartition(".")[2] not in ("", "Compensation", "NoCompensation")


def _number(layer: object, name: str) -> float | None:
    value = getattr(layer, name, None)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _outcomes(record: Record) -> dict[str, float | None]:
    """What happened to the network, on the test split; positive is damage."""
    stages = (record.metrics.dense, record.metrics.pruned, record.metrics.tuned)
    dense, pruned, tuned = (stage or Metrics() for stage in stages)
    return {
        "loss increase": _minus(pruned.loss, dense.loss),
        "accuracy drop before fine-tuning": _minus(dense.accuracy, pruned.accuracy),
        "accuracy drop after fine-tuning": _minus(dense.accuracy, tuned.accuracy),
    }


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


@dataclass(frozen=True)
class Correlation:
    """A rank correlation, its bootstrap interval where there are enough clusters, and the number of groups."""

    value: float | None
    low: float | None
    high: float | None
    groups: int

    def text(self) -> str:
        """``0.93 [0.90, 0.95]``."""
        if self.value is None:
            return NONE
        return f"{self.value:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if self.low is not None else "")


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation with average ranks for ties; None if either is constant or has under 3 values."""
    import numpy as np
    from scipy.stats import rankdata

    if len(x) < FEWEST:
        return None
    first, second = rankdata(x) - (len(x) + 1) / 2, rankdata(y) - (len(x) + 1) / 2
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(np.clip(first @ second / scale, -1, 1)) if scale > 0 else None


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b; None if either is constant or has under 3 values."""
    if len(x) < FEWEST or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy.stats import kendalltau

    return float(kendalltau(x, y).statistic)


def pooled(own: Sequence[Point]) -> Correlation:
    """Spearman over all points; the bootstrap resamples cells."""
    value = spearman([point.predicted for point in own], [point.measured for point in own])
    clusters = list(_grouped(own, lambda point: point.key).values())
    if value is None or len(clusters) < FEWEST:
        return Correlation(value, None, None, len(clusters))

    def of(chosen: "np.ndarray") -> float | None:
        sample = [point for number in chosen for point in clusters[number]]
        return spearman([point.predicted for point in sample], [point.measured for point in sample])

    low, high = _interval(len(clusters), of)
    if (
        low is not None and high is not None
    ):  # a cell drawn twice ties with itself, so with few cells the bootstrap is biased inwards
        low, high = min(low, value), max(high, value)
    return Correlation(value, low, high, len(clusters))


def within(own: Sequence[Point], group: Callable[[Point], Hashable]) -> Correlation:
    """Mean over groups of Spearman inside each; the bootstrap resamples groups."""
    groups = _grouped(own, group).values()
    found = [spearman([p.predicted for p in members], [p.measured for p in members]) for members in groups]
    known = [value for value in found if value is not None]
    if not known:
        return Correlation(None, None, None, 0)
    mean = math.fsum(known) / len(known)
    if len(known) < FEWEST:
        return Correlation(mean, None, None, len(known))
    ends = _interval(len(known), lambda chosen: math.fsum(known[number] for number in chosen) / len(chosen))
    return Correlation(mean, *ends, len(known))


def _grouped(own: Iterable[Point], group: Callable[[Point], Hashable]) -> dict[Hashable, list[Point]]:
    groups: dict[Hashable, list[Point]] = defaultdict(list)
    for point in own:
        groups[group(point)].append(point)
    return groups


def _interval(size: int, statistic: Callable[["np.ndarray"], float | None]) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap of ``statistic`` of ``size`` resampled clusters."""
    import numpy as np

    generator = np.random.default_rng(0)  # the same records give the same board
    found = [statistic(generator.integers(size, size=size)) for _ in range(RESAMPLES)]
    known = [value for value in found if value is not None]
    if len(known) < RESAMPLES / 2:
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


WITHIN: dict[str, Callable[[Point], Hashable]] = {
    "over layers": lambda p: p.key,
    "over budgets": lambda p: (p.variant, p.seed, p.layer),
    "over methods": lambda p: (p.dataset, p.model, p.budget, p.seed, p.layer),
}


@dataclass(frozen=True)
class Predictor:
    """How well one theory predicts one outcome."""

    theory: str
    unit: str | None
    outcome: str
    scope: str
    n: int
    all: Correlation
    kendall: float | None
    within: dict[str, Correlation]
    calibration: str


def rank(every: Sequence[Point]) -> list[Predictor]:
    """All predictors, grouped by scope and outcome, the best first."""
    groups: dict[tuple[str, str, str, str], list[Point]] = defaultdict(list)
    for point in every:
        groups[point.scope, point.outcome, point.theory, point.unit or ""].append(point)
    found = []
    for (scope, outcome, theory, _), own in sorted(groups.items()):
        inside = {
            name: within(own, key) if scope == "layer" or name != "over layers" else Correlation(None, None, None, 0)
            for name, key in WITHIN.items()
        }
        tau = kendall([point.predicted for point in own], [point.measured for point in own])
        unit = own[0].unit
        judged = calibration(own) if unit == "loss" and outcome in ("measured", "loss increase") else NONE
        found.append(Predictor(theory, unit, outcome, scope, len(own), pooled(own), tau, inside, judged))
    return sorted(found, key=lambda p: (p.scope, OUTCOMES.index(p.outcome), *_merit(p), p.theory))


def _merit(predictor: Predictor) -> tuple[bool, float]:
    value = predictor.all.value
    return value is None, 0.0 if value is None else -value


def calibration(own: Sequence[Point]) -> str:
    """Median of measured / predicted with its quartiles, over points where both are positive."""
    import numpy as np

    ratios = [point.measured / point.predicted for point in own if point.predicted > 0 and point.measured > 0]
    if len(ratios) < FEWEST:
        return NONE
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{_two_digits(middle)} [{_two_digits(low)}, {_two_digits(high)}]"


def _two_digits(ratio: float) -> str:
    """``ratio`` with two significant digits; numbers below a million without an exponent."""
    text = f"{ratio:.2g}"
    return f"{float(text):,.0f}" if 100 <= ratio < 1e6 else text


def tables(every: Sequence[Point]) -> list[Table]:
    """One table per scope and outcome."""
    groups: dict[tuple[str, str], list[Predictor]] = defaultdict(list)
    for predictor in rank(every):
        groups[predictor.scope, predictor.outcome].append(predictor)
    figures = ["n", "rho, all", "tau, all", *(f"rho, {name}" for name in WITHIN)]
    columns = ["theory", "unit", *figures, "measured / predicted"]
    notes = [
        "rho: Spearman, over all points or the mean over groups in which only that varies, with a 95 % bootstrap "
        "interval over whole cells or groups; tau: Kendall",
        "measured / predicted: median and quartiles where the unit is that of the loss; 1 is calibrated",
        "before fine-tuning unless the title says otherwise; on the test split; positive is damage",
    ]
    found = []
    for (scope, outcome), members in groups.items():
        rows = [
            [
                *(predictor.theory, predictor.unit or NONE, str(predictor.n), predictor.all.text()),
                NONE if predictor.kendall is None else f"{predictor.kendall:.2f}",
                *(predictor.within[name].text() for name in WITHIN),
                predictor.calibration,
            ]
            for predictor in members
        ]
        shown = [place for place in range(len(columns)) if place < 5 or any(row[place] != NONE for row in rows)]
        what = "quantity it is about" if outcome == "measured" else outcome
        subject = f"{what}, of the network" if scope == "network" else f"{what}, layer by layer"
        title = f"Which theory predicts the {subject}"
        kept = [[row[place] for place in shown] for row in rows]
        # Not the unit: a theory may occur twice, paired with the loss and with the output error.
        droppable = ["tau, all", *(f"rho, {name}" for name in reversed(WITHIN)), "measured / predicted"]
        found.append(Table(title, [columns[place] for place in shown], kept, {"theory", "unit"}, notes, droppable))
    return found


def show(store: Store, out: Path, console: Any, where: str | None = None) -> int:
    """Print the board, and write it with all its points to ``out``."""
    records, _ = store.load()
    every = points(select(records, where))
    if not every:
        raise BadInput(
            "No record holds predictions beside an outcome.\n"
            "Run methods that predict their damage, for instance: python run.py -m method=spectral,obd,obs"
        )
    found = tables(every)
    for table in found:
        table.show(console)
    text = "# Theory board\n\n" + "\n".join(table.markdown() for table in found)
    write_atomically(out / "theory.md", text)
    rows = [point.row() for point in every]
    write_atomically(out / "theory.csv", csv_text(list(rows[0]), [list(row.values()) for row in rows]))
    console.print(f"written: {out / 'theory.md'}, {out / 'theory.csv'}", markup=False)
    return 0
