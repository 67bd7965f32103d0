"""What of a method's standing is its choice of nodes, what its repair, and what the rate of fine-tuning?

Each of four selections is combined with each of three repairs and fine-tuned at each of four rates; the rate of a
combination is the one with the best accuracy on the validation split, averaged over seeds. The trainer is the suite's
own, and all networks of a task have the same size.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.boards.stats import ALPHA, Comparison, Spread, holm, paired_t, spread
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim, Outcome, Workplace
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record

PAPER = (
    "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), and Acharyya, Zhang & Das, arXiv 2006.16617, taken apart; the grid "
    "itself is ours"
)
SELECTIONS = {"spectral": "spectral", "dpp": "DPP", "magnitude": "magnitude", "random": "random"}
REPAIRS: Mapping[str, Sequence[str]] = {
    "none": ("compensation=none",),
    "fit": ("compensation=least_squares", "compensation.refit=false"),
    "refit": ("compensation=least_squares", "compensation.refit=true"),
}
RATES = (0.3, 1.0, 3.0, 10.0)
"""Multiples of the preset's rate of fine-tuning."""
BEFORE, PRESET, CHOSEN = "before fine-tuning", "fine-tuned at the preset's rate", "fine-tuned at the best rate"
STAGES = (BEFORE, PRESET, CHOSEN)
ARM = ["task", "selection", "repair"]


@dataclass(frozen=True)
class Task:
    """A network that is pruned to one size: its words, and the preset's rate of fine-tuning."""

    words: Sequence[str]
    rate: float


TASKS = {
    "LeNet-5, MNIST, a speed-up of 8": Task(
        (
            *("dataset=mnist", "model=lenet5", "dataset.limit=12000", "trainer.train.epochs=8"),
            *("trainer.finetune.epochs=3", "budget.speedup=8"),
        ),
        0.01,
    ),
    "MLP, digits, a sixteenth of the parameters": Task(("dataset=digits", "model=mlp", "budget.compression=16"), 0.02),
}
QUICK = {
    "MLP, digits": Task(
        (
            *("dataset=digits", "model=mlp", "model.widths=[24,16]", "dataset.limit=300", "calibration.samples=64"),
            *("trainer.train.epochs=2", "trainer.finetune.epochs=1", "budget.compression=2"),
        ),
        0.02,
    )
}


def run(work: Workplace) -> Outcome:
    """Five seeds of each task: 240 cells each, on one core a quarter of an hour (LeNet-5) and five minutes (digits)."""
    seeds, multiples = ("0", (1.0,)) if work.quick else ("0,1,2,3,4", RATES)
    rows: list[dict[str, Any]] = []
    for name, task in (QUICK if work.quick else TASKS).items():
        rates = ",".join(f"{task.rate * multiple:g}" for multiple in multiples)
        for repair, own in REPAIRS.items():
            words = [f"seed={seeds}", *task.words, *own, f"method={','.join(SELECTIONS)}"]
            words += [f"trainer.finetune.learning_rate={rates}", "measure=none", "track=none"]
            rows += [_row(name, task, repair, record) for record in work.cells(words, recipe=())]
    return finish(rows)


def _row(name: str, task: Task, repair: str, record: Record) -> dict[str, Any]:
    """Accuracies in % of one cell."""
    stages = (record.metrics.dense, record.metrics.pruned, record.metrics.tuned)
    dense, before, after = (100 * stage.accuracy if stage and stage.accuracy is not None else None for stage in stages)
    epochs = [epoch.get("validation_accuracy") for epoch in (record.history or {}).get("finetune", [])]
    validation = max((float(accuracy) for accuracy in epochs if accuracy is not None), default=None)
    return {
        **{"task": name, "selection": record.method, "repair": repair, "seed": record.seed},
        "multiple": round(record.config["trainer"]["finetune"]["learning_rate"] / task.rate, 6),
        **{"dense": dense, "before": before, "after": after},
        "validation": None if validation is None else 100 * validation,
    }


def finish(rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """The outcome of these cells: ``task``, ``selection``, ``repair``, ``seed``, ``multiple``, accuracies in %.

    Raises:
        BadInput: a combination lacks a rate or a seed that others have, so that means over them could not be compared.
    """
    import pandas as pd

    frame = pd.DataFrame(rows)
    tasks = frame["task"].unique().tolist()
    for task in tasks:
        part = frame[frame["task"] == task]
        counts = part.groupby([*ARM[1:], "multiple", "seed"]).size()
        whole = part[["selection", "repair", "multiple", "seed"]].nunique().prod()
        if len(counts) != whole or (counts != 1).any() or part[["before", "after", "validation"]].isna().any().any():
            raise BadInput(f"{task}: {len(counts)} of {whole} combinations have a result; run the others first")
    results = stages_of(frame)
    effects = [effect for task in tasks for effect in effects_of(task, results)]
    claims = [claim for task in tasks for claim in _claims(task, results, effects)]
    numbers = {"rates": _rates(frame), "effects": pd.DataFrame(map(asdict, effects))}
    return Outcome(_summary(frame, results), claims, _setting(frame), numbers=numbers)


def best_rates(frame: pd.DataFrame) -> dict[Hashable, float]:
    """For each task, selection and repair the multiple of the best mean validation accuracy; the smaller of equals."""
    found: dict[Hashable, float] = {}
    for arm, own in frame.groupby(ARM):
        means = {multiple: own[own["multiple"] == multiple]["validation"].mean() for multiple in own["multiple"]}
        found[arm] = float(max(sorted(means), key=means.__getitem__))
    return found


def stages_of(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per task, selection, repair and seed, with the accuracy in % at each stage."""
    import pandas as pd

    best = best_rates(frame)
    rows = []
    for (task, selection, repair, seed), own in frame.groupby([*ARM, "seed"], sort=False):
        at = own.set_index("multiple")["after"]
        rows.append(
            {
                **{"task": task, "selection": selection, "repair": repair, "seed": seed},
                **{BEFORE: own["before"].mean(), PRESET: at[1.0], CHOSEN: at[best[task, selection, repair]]},
            }
        )
    return pd.DataFrame(rows)


CONTRASTS = {  # what is compared: the factor, the first level, the second
    "refit - none": ("repair", "refit", "none"),
    "fit - none": ("repair", "fit", "none"),
    "refit - fit": ("repair", "refit", "fit"),
    "spectral - random": ("selection", "spectral", "random"),
    "DPP - random": ("selection", "dpp", "random"),
    "magnitude - random": ("selection", "magnitude", "random"),
}


def contrast(results: pd.DataFrame, task: str, stage: str, what: str) -> list[float]:
    """For each seed the difference of two levels of a factor, in points, averaged over the levels of the other."""
    factor, first, second = CONTRASTS[what]
    means = results[results["task"] == task].groupby([factor, "seed"])[stage].mean()
    return (means[first] - means[second]).tolist()


@dataclass(frozen=True)
class Effect:
    """One contrast at one stage, in points; ``p`` is Holm's over the contrasts of the stage."""

    task: str
    stage: str
    contrast: str
    difference: float
    half_interval: float | None
    n: int
    p: float | None

    def claim(self, text: str, sign: int = 1) -> Claim:
        """Whether it is seen to have this sign."""
        seen = sign * self.difference > 0 if self.p is not None and self.p <= ALPHA else None
        width = "" if self.half_interval is None else f" ± {self.half_interval:.2f}"
        p = "" if self.p is None else f", p = {self.p:.2g}"
        evidence = f"{self.contrast}: {self.difference:+.2f}{width} points, n = {self.n}{p}"
        return Claim(f"{self.task}: {text}", seen, evidence)


def effects_of(task: str, results: pd.DataFrame) -> Iterator[Effect]:
    """Every contrast at every stage, with Holm's correction over the contrasts of a stage."""
    for stage in STAGES:
        found = [contrast(results, task, stage, what) for what in CONTRASTS]
        adjusted = holm([paired_t(values).p for values in found])
        for what, values, p in zip(CONTRASTS, found, adjusted, strict=True):
            yield Effect(task, stage, what, fmean(values), spread(values).half_width, len(values), p)


def _claims(task: str, results: pd.DataFrame, effects: Sequence[Effect]) -> Iterator[Claim]:
    own = {(effect.stage, effect.contrast): effect for effect in effects if effect.task == task}
    repair, choice = (contrast(results, task, BEFORE, what) for what in ("refit - none", "spectral - random"))
    apart = [abs(first) - abs(second) for first, second in zip(repair, choice, strict=True)]
    yield _larger(f"{task}: {BEFORE}, the repair matters more than the choice of nodes", apart)
    yield own[BEFORE, "refit - fit"].claim(f"{BEFORE}, refitting is more accurate than the plain fit")
    for stage in (PRESET, CHOSEN):
        yield own[stage, "refit - fit"].claim(f"{stage}, refitting is less accurate than the plain fit", -1)
    yield own[CHOSEN, "refit - none"].claim(f"{CHOSEN}, refitting is more accurate than no repair")
    for name in ("spectral", "DPP"):
        for stage in (BEFORE, CHOSEN):
            yield own[stage, f"{name} - random"].claim(f"{stage}, {name} nodes are better than random ones")


def _larger(text: str, apart: Sequence[float]) -> Claim:
    """Refit minus none against spectral minus random, both without their sign."""
    test: Comparison = paired_t(apart)
    summary: Spread = spread(apart)
    if test.p is None or test.difference is None:
        return Claim(text, None, "one seed")
    seen = test.difference > 0 if test.p <= ALPHA else None
    width = "" if summary.half_width is None else f" ± {summary.half_width:.2f}"
    evidence = f"|refit - none| - |spectral - random|: {test.difference:+.2f}{width} points, n = {test.n}"
    return Claim(text, seen, f"{evidence}, p = {test.p:.2g}")


def _summary(frame: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """One row per task, selection and repair."""
    import pandas as pd

    best = best_rates(frame)
    rows = []
    for arm, own in results.groupby(ARM, sort=False):
        row: dict[str, Any] = dict(zip(ARM, arm, strict=True))
        dense = frame[frame["task"] == row["task"]]["dense"].mean()
        for stage in STAGES:
            found = spread(own[stage].tolist())
            row |= {stage: found.mean, f"std ({stage})": found.std}
        rows.append(row | {"best rate / preset's": best[arm], "n": len(own), "dense": dense})
    return pd.DataFrame(rows)


def _rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of the fine-tuned accuracy at every rate."""
    means = frame.groupby([*ARM, "multiple"], sort=False)
    return means.agg(
        accuracy=("after", "mean"), std=("after", "std"), validation=("validation", "mean"), n=("after", "count")
    ).reset_index()


def _setting(frame: pd.DataFrame) -> str:
    dense = frame.groupby("task", sort=False)["dense"].mean()
    networks = "; ".join(f"{name}: dense {value:.2f} %" for name, value in dense.items())
    rates = ", ".join(f"{multiple:g}" for multiple in sorted(frame["multiple"].unique()))
    return (
        f"{networks}. {frame['seed'].nunique()} seeds; the suite's own trainer (LeNet-5: 12,000 images, 8 and 3 "
        f"epochs); rates: {rates} times the preset's. Fit: least squares on the original features, refit: on those of "
        "the partly pruned network, both with a ridge of 0.001. The best rate of a combination has the best mean "
        "accuracy on validation, over seeds; the test split chooses nothing. A contrast is the mean over the levels of "
        "the other factor, in each seed; ± is half of its 95 % interval (Student's t over seeds), p is Holm's over the "
        "contrasts of a stage, undecided means p > 0.05."
    )


MARKS = {"none": (nth(7), False), "fit": (nth(0), True), "refit": (nth(1), True)}


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Every combination at every stage; and, for each task, accuracy against the rate."""
    tasks = list(outcome.table["task"].unique())
    sheets = {"selection_x_repair_x_rate": _stages(outcome, tasks)}
    for number, task in enumerate(tasks):
        sheets[f"rates_{number + 1}"] = _over_rates(outcome, task)
    return sheets


def _stages(outcome: Outcome, tasks: Sequence[str]) -> Sheet:
    effects = outcome.numbers_of("effects").set_index(["task", "stage", "contrast"])["difference"]
    before, preset, chosen = (effects[tasks[0], stage, "refit - fit"] for stage in STAGES)
    sheet = Sheet(
        f"{tasks[0]}: refitting instead of the plain fit changes the accuracy by {before:+.1f} points before "
        f"fine-tuning, by {preset:+.1f} at the preset's rate and by {chosen:+.1f} at the best rate",
        rows=len(tasks),
        columns=3,
        height=0.7 + 0.3 * len(SELECTIONS),
        share_y="all",
        note=f"Means over {outcome.table['n'].max():g} seeds, bars: sample standard deviation. The best rate of each "
        "combination is chosen on validation.",
        key=[Sign(repair_name(name), style, False, filled=full) for name, (style, full) in MARKS.items()],
    )
    for line, name in enumerate(tasks):
        for column, stage in enumerate(STAGES):
            panel = sheet.panel(line, column, stage if not line else "")
            panel.x_bounds = (0, 100)
            for place, repair in enumerate(MARKS):
                own = outcome.table[(outcome.table["task"] == name) & (outcome.table["repair"] == repair)]
                heights = [list(SELECTIONS).index(each) + 0.22 * (place - 1) for each in own["selection"]]
                style, full = MARKS[repair]
                panel.points(own[stage], heights, style, x_std=own[f"std ({stage})"].fillna(0), filled=full, size=5.5)
            panel.rows(list(SELECTIONS.values()))
            short = name.partition(", a ")[0]
            panel.label(f"test accuracy, %\n({short})", "")
    return sheet


def repair_name(repair: str) -> str:
    """A repair for readers."""
    return {"none": "no repair", "fit": "fit"}.get(repair, repair)


def _over_rates(outcome: Outcome, task: str) -> Sheet:
    table, rates = outcome.table, outcome.numbers_of("rates")
    own = table[table["task"] == task]
    chosen = {repair: part["best rate / preset's"].tolist() for repair, part in own.groupby("repair")}
    said = ", ".join(f"{repair_name(repair)} {_span(chosen[repair])}" for repair in MARKS)
    sheet = Sheet(
        f"{task}: the rates that validation chooses, as multiples of the preset's: {said}",
        rows=2,
        columns=2,
        height=2.1,
        share_x="all",
        share_y="all",
        note=f"Means over {own['n'].max():g} seeds, bars: sample standard deviation.",
    )
    for place, (selection, label) in enumerate(SELECTIONS.items()):
        panel = sheet.panel(place // 2, place % 2, f"{label} nodes")
        for repair, (style, _) in MARKS.items():
            part = rates[(rates["task"] == task) & (rates["selection"] == selection) & (rates["repair"] == repair)]
            part = part.sort_values("multiple")
            name = repair_name(repair) if place % 2 else ""
            panel.line(part["multiple"], 100 - part["accuracy"], style, name, part["std"].fillna(0))
        panel.label("rate of fine-tuning / the preset's", "test error, %", (0, 100))
        panel.log("x")
        panel.log("y")
        panel.ticks("x", sorted(rates["multiple"].unique()))
    return sheet


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
