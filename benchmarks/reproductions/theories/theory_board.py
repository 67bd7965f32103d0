"""Which theory knows the damage of pruning: of layers, budgets, methods and networks; and where is it calibrated?

Everything is computed from stored numbers, and nothing is trained: the predictions that reviewed records hold, the
networks of one structure of ``compressibility``, and what all theories predict of the same networks where
``theory_points`` has been run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.boards.theory import Point, points
from benchmarks.figures.looks import Look
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.theories._ranking import (
    FACTOR,
    LOSS,
    NETWORKS,
    QUESTIONS,
    Calibrated,
    Ranked,
    amount,
    calibrated,
    ranked,
)
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

PAPER = (
    "none; theories of LeCun et al. 1989, Hassibi & Stork 1992, Wang et al. 2019, Singh & Alistarh 2020, Suzuki et al. "
    "2020, Yang et al. 2022, Diao et al. 2023, Mariet & Sra 2016"
)
OTHERS = "compressibility"  # whose table answers the question about networks of one structure
EVERYTHING = "theory_points"
NAMES = {
    "digits/mlp": "MLP, digits",
    "digits/resnet20": "ResNet-20, digits",
    "mnist/lenet300": "LeNet-300-100, MNIST",
    "mnist/lenet5": "LeNet-5, MNIST",
    "shapes/resnet18": "ResNet-18, shapes",
}
GREY = Look("#7d7d7d", "circle", (1, 0))


def run(work: Workplace) -> Outcome:
    """From the reviewed records and two stored tables; a quarter of a minute."""
    from benchmarks.records.store import Store

    records, _ = Store(work.results / "none", work.results / "cells").load()
    every = points(record for record in records if record.status == "done")
    return finish(every, *(_stored(work, name, file) for name, file in ((OTHERS, "table"), (EVERYTHING, "table"))))


def _stored(work: Workplace, name: str, file: str) -> pd.DataFrame | None:
    """A table of another reproduction, or None where it has not been run."""
    import pandas as pd

    path = work.results / "reproductions" / name / f"{file}.csv"
    return pd.read_csv(path) if path.is_file() else None


def finish(
    every: Sequence[Point], networks: pd.DataFrame | None = None, everything: pd.DataFrame | None = None
) -> Outcome:
    """The outcome of these points, of the table of ``compressibility`` and of that of ``theory_points``.

    Raises:
        BadInput: nothing was predicted.
    """
    import pandas as pd

    found = [*ranked(every), *_of_networks(networks)]
    sizes = list(calibrated(every))
    if everything is not None:
        found += [_from(row) for row in _rows(everything)]
    if not found and not sizes:
        raise BadInput(
            "no record holds predictions; run methods that predict their damage, for instance\n"
            "  python run.py -m method=spectral,obd,obs"
        )
    table = pd.DataFrame([asdict(each) | {"orders": each.orders} for each in found])
    factors = pd.DataFrame([asdict(each) | {"verdict": each.size} for each in sizes])
    cloud = pd.DataFrame(
        {
            **{"theory": point.theory, "task": f"{point.dataset}/{point.model}", "budget": point.budget},
            **{"predicted": point.predicted, "measured": point.measured},
        }
        for point in every
        if point.unit == "loss" and point.outcome == LOSS and point.scope == "network"
    )
    claims = [*_orders(found), *_sizes(sizes)]
    return Outcome(table, claims, _setting(every, everything is not None), {}, {"factors": factors, "points": cloud})


def _of_networks(table: pd.DataFrame | None) -> Iterator[Ranked]:
    """The rank correlations over networks of one structure, a line per theory, task and edge method."""
    for row in [] if table is None else _rows(table):
        task = f"{row['task']}, {row['method']} edges"
        rho, low, high = (row[name] for name in ("spearman", "low", "high"))
        yield Ranked(NETWORKS, row["theory"], "accuracy drop", task, rho, low, high, int(row["n"]))


def _from(row: dict[str, Any]) -> Ranked:
    """A line of ``theory_points``, which are lines of this table."""
    return Ranked(**{name: row[name] for name in Ranked.__dataclass_fields__})


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table, with None for what is missing."""
    found = [dict(zip(table.columns, line, strict=True)) for line in table.itertuples(index=False, name=None)]
    return [{name: None if value != value else value for name, value in row.items()} for row in found]


def _orders(found: Sequence[Ranked]) -> Iterator[Claim]:
    """A claim per question and theory; over several tasks it is seen where it is on all of them."""
    for question in (*QUESTIONS, NETWORKS):
        own = [each for each in found if each.question == question]
        for theory, damage in dict.fromkeys((each.theory, each.damage) for each in own):
            parts = [each for each in own if (each.theory, each.damage) == (theory, damage)]
            words = {each.orders for each in parts}
            seen = True if words == {"yes"} else False if words == {"the other way round"} else None
            evidence = "; ".join(f"{each.tasks}: {_interval(each)}, n = {each.n}" for each in parts)
            yield Claim(f"{theory} orders {question} by their {damage}", seen, evidence)


def _interval(each: Ranked) -> str:
    if each.rho is None:
        return "no rank correlation"
    return f"rho {each.rho:.2f}" + ("" if each.low is None else f" [{each.low:.2f}, {each.high:.2f}]")


def _sizes(found: Sequence[Calibrated]) -> Iterator[Claim]:
    """A claim per theory; seen where it is calibrated everywhere, not seen where it is decidedly off somewhere."""
    for theory in dict.fromkeys(each.theory for each in found):
        parts = [each for each in found if each.theory == theory]
        words = {each.size for each in parts}
        off = words & {"predicts too little", "predicts too much"}
        seen = True if words == {"calibrated"} else False if off else None
        evidence = "; ".join(f"{NAMES.get(each.task, each.task)}, {each.budget}: {_factor(each)}" for each in parts)
        yield Claim(f"the {theory} is calibrated within a factor of {FACTOR:g}", seen, evidence)


def _factor(each: Calibrated) -> str:
    if each.ratio is None:
        return "no factor"
    ends = "" if each.low is None or each.high is None else f" [{two(each.low)}, {two(each.high)}]"
    return f"measured / predicted {two(each.ratio)}{ends}, n = {each.n}"


def two(ratio: float) -> str:
    """Two significant digits, without an exponent."""
    digits = max(0, 1 - math.floor(math.log10(ratio)))
    return f"{float(f'{ratio:.2g}'):,.{digits}f}"


def _setting(every: Sequence[Point], whole: bool) -> str:
    cells = len({point.key for point in every})
    tasks = ", ".join(NAMES.get(task, task) for task in sorted({f"{point.dataset}/{point.model}" for point in every}))
    rest = (
        "Theories that belong to no method's own score, degrees of freedom and DPP likelihoods among them, are from "
        "`theory_points`."
        if whole
        else "What records do not hold cannot be judged: no degrees of freedom or DPP likelihood beside layers, "
        "budgets and methods, until `python -m benchmarks.reproduce theory_points` has been run."
    )
    return (
        f"{cells} records that hold predictions, before fine-tuning ({tasks}). Orders: Spearman's rank correlation in "
        "groups in which only the layer, the budget or the method differs, averaged, with a 95 % bootstrap interval "
        "over groups; over networks, a bootstrap over networks. Undecided: the interval holds 0. Sizes: the increase "
        "of the loss on the test split beside the predicted one, as the geometric mean of measured / predicted over "
        "seeds with the 95 % interval of Student's t of the logarithm; a theory is calibrated where it lies within "
        f"a factor of {FACTOR:g} of 1. Each method's number is judged on that method's own pruned networks, which "
        f"differ. {rest}"
    )


def brief(outcome: Outcome) -> tuple[str, pd.DataFrame]:
    """How many theories order each question, and the one with the largest correlation."""
    import pandas as pd

    rows = []
    for question in (*QUESTIONS, NETWORKS):
        own = [row for row in _rows(outcome.table) if row["question"] == question]
        words = [row["orders"] for row in own]
        row: dict[str, Any] = {"question": question, "lines": len(own), "ordered": words.count("yes")}
        row |= {word: words.count(word) for word in ("the other way round", "undecided")}
        best = max(own, key=lambda each: -2.0 if each["rho"] is None else each["rho"], default=None)
        rows.append(row | ({"most": best["theory"], "its rho": best["rho"]} if best else {}))
    return "How many lines of the table order what they are about, and the one with the largest rho:", pd.DataFrame(
        rows
    )


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Ranks by theory and outcome; predicted against measured; by which factor and where the damage is larger."""
    sheets = {"ranks": _ranks(outcome.table)}
    if not outcome.numbers_of("points").empty:
        sheets |= {"sizes": _cloud(outcome.numbers_of("points")), "factors": _where(outcome.numbers_of("factors"))}
    return sheets


def _ranks(table: pd.DataFrame) -> Sheet:
    rows = {
        question: [row for row in _rows(table) if row["question"] == question] for question in (*QUESTIONS, NETWORKS)
    }
    rows = {question: own for question, own in rows.items() if own}
    names = {question: list(dict.fromkeys(map(_named, own))) for question, own in rows.items()}
    looks = _looks(list(dict.fromkeys(row["tasks"] for row in rows.get(NETWORKS, []))))
    counts = "; ".join(
        f"{question}: {sum(row['orders'] == 'yes' for row in own)} of {len(own)}" for question, own in rows.items()
    )
    sheet = Sheet(
        f"Which theory orders what by its damage? Rightly: {counts}",
        rows=len(rows),
        height=[0.8 + (0.5 if question == NETWORKS else 0.24) * len(own) for question, own in names.items()],
        note="Spearman's rank correlation, 95 % bootstrap interval; hollow: the interval holds 0, or there is none."
        + "".join(f" {_marks(number)}: {task}." for number, task in enumerate(looks)),
    )
    for line, (question, own) in enumerate(rows.items()):
        panel = sheet.panel(line, 0, question)
        for row in own:
            style = looks.get(row["tasks"], GREY) if question == NETWORKS else GREY
            place = float(names[question].index(_named(row)))
            if question == NETWORKS:
                place += 0.2 * (list(looks).index(row["tasks"]) - (len(looks) - 1) / 2)
            if row["low"] is not None:
                panel.span((row["low"], place), (row["high"], place), style, 1.6)
            panel.points([row["rho"]], [place], style, filled=row["orders"] != "undecided", size=6)
        panel.rows(names[question])
        panel.axes.set_xlim(-1.05, 1.05)
        panel.ticks("x", [-1, -0.5, 0, 0.5, 1])
        panel.level(0, "chance", vertical=True)
        panel.label("rank correlation", "")
    return sheet


def _named(row: dict[str, Any]) -> str:
    return f"{row['theory']} → {row['damage']} (n = {row['n']})"


def _marks(number: int) -> str:
    return nth(number).shape.capitalize()


def _looks(tasks: Sequence[str]) -> dict[str, Look]:
    return {task: nth(number) for number, task in enumerate(tasks)}


def _cloud(cloud: pd.DataFrame) -> Sheet:
    theories, looks = list(cloud["theory"].unique()), _looks(sorted(cloud["task"].unique()))
    positive = cloud[(cloud["predicted"] > 0) & (cloud["measured"] > 0)]
    ratios = (positive["measured"] / positive["predicted"]).groupby(positive["theory"]).median()
    low, high = two(float(ratios.min())), two(float(ratios.max()))
    sheet = Sheet(
        f"The damage is {low} to {high} times what a method's own cost predicts (medians of {len(ratios)} theories)",
        rows=math.ceil(len(theories) / 3),
        columns=3,
        height=1.9,
        share_x="all",
        share_y="all",
        note="A point per pruned network, before fine-tuning; on the line predicted and measured are equal.",
        key=[Sign(NAMES.get(task, task), style, line=False) for task, style in looks.items()],
    )
    ends = [
        [float(value) for value in (positive[name].min(), positive[name].max())] for name in ("predicted", "measured")
    ]
    for place, theory in enumerate(theories):
        panel = sheet.panel(place // 3, place % 3, theory.removeprefix("predicted loss increase").strip(" ()"))
        low_, high_ = max(part[0] for part in ends), min(part[1] for part in ends)
        if low_ < high_:
            panel.span((low_, low_), (high_, high_), GREY, 1.2)
        for task, style in looks.items():
            own = positive[(positive["theory"] == theory) & (positive["task"] == task)]
            panel.points(own["predicted"], own["measured"], style, size=4.5)
        panel.label("predicted increase", "measured increase")
        panel.log("x")
        panel.log("y")
        panel.ticks("x", [1e-4, 1e-2, 1], ["0.0001", "0.01", "1"])
    for place in range(len(theories), 3 * math.ceil(len(theories) / 3)):
        sheet.words(place // 3, place % 3, "")
    return sheet


def _where(factors: pd.DataFrame) -> Sheet:
    rows = [row for row in _rows(factors) if row["ratio"] is not None]
    tasks = sorted({row["task"] for row in rows})
    theories = list(dict.fromkeys(row["theory"] for row in rows))
    judged = factors["verdict"].value_counts()
    sheet = Sheet(
        f"Where predicted damage is calibrated: {judged.get('calibrated', 0)} of {len(factors)} cases; too little is "
        f"predicted in {judged.get('predicts too little', 0)}, too much in {judged.get('predicts too much', 0)}",
        columns=len(tasks),
        height=0.9 + 0.3 * len(theories),
        share_x="all",
        share_y="all",
        note="Geometric means over seeds with 95 % intervals (Student's t of the logarithm); grey: within a factor of "
        f"{FACTOR:g}. Each method on the networks that it pruned itself.",
        key=[Sign("milder budget", nth(0), line=False), Sign("strongest budget", nth(1), line=False)],
    )
    for column, task in enumerate(tasks):
        panel = sheet.panel(0, column, NAMES.get(task, task))
        budgets = sorted({row["budget"] for row in rows if row["task"] == task}, key=amount)
        for place, theory in enumerate(theories):
            for row in (row for row in rows if (row["task"], row["theory"]) == (task, theory)):
                number = int(len(budgets) > 1 and row["budget"] == budgets[-1])
                width = 0.0 if row["high"] is None else math.log10(row["high"] / row["ratio"])
                height = place + 0.26 * (number - 0.5)
                panel.points([math.log10(row["ratio"])], [height], nth(number), x_std=[width], size=5.5)
        panel.rows([theory.removeprefix("predicted loss increase").strip(" ()") for theory in theories])
        panel.axes.axvspan(-math.log10(FACTOR), math.log10(FACTOR), color="#dddddd", zorder=0.5)
        panel.ticks("x", [-2, 0, 2, 4], ["1/100", "1", "100", "10,000"])
        panel.label("measured / predicted", "")
    return sheet
