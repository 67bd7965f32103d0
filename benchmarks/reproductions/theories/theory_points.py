"""What every theory predicts of the same pruned networks: which orders layers, budgets and methods by their damage?

Ten methods prune the same networks to several sizes, and every theory is evaluated at each change that was made:
second-order costs, degrees of freedom, DPP likelihoods, sparse-lq bounds and the PQ index. ``theory_board`` reads the
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.boards.theory import Point, points
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.theories._ranking import FACTOR, LOSS, QUESTIONS, calibrated, ranked
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

PAPER = "none; the theories' papers are in methods/theories/evaluation.py"
METHODS = "spectral,dpp,magnitude,random,kron_obs,magnitude_edge,random_edge,lq,obd,obs"
SHARED = (f"method={METHODS}", "measure=none", "measure.theory=true", "track=none", "trainer.finetune.epochs=0")
GRIDS = (
    ("seed=0,1,2,3,4", "dataset=digits", "model=mlp", "budget.compression=2,4,16"),
    (
        *("seed=0,1,2", "dataset=mnist", "model=lenet5", "dataset.limit=6000", "trainer.train.epochs=8"),
        *("budget.speedup=1.5,2,4", "calibration.samples=500"),
    ),
)
QUICK = (
    (
        *("seed=0", "dataset=digits", "model=mlp", "model.widths=[12,12,10]", "dataset.limit=300"),
        *("trainer.train.epochs=8", "calibration.samples=64", "method=spectral,dpp,magnitude", "budget.compression=2"),
    ),
)


def run(work: Workplace) -> Outcome:
    """150 cells of digits and 90 of LeNet-5, without fine-tuning; a quarter of an hour on one core."""
    records = []
    for words in QUICK if work.quick else GRIDS:
        own = {word.partition("=")[0] for word in words}
        records += work.cells([*words, *(word for word in SHARED if word.partition("=")[0] not in own)], recipe=())
    return finish(points(records))


def finish(every: Sequence[Point]) -> Outcome:
    """The outcome of these points.

    Raises:
        BadInput: no theory was evaluated on three things to order.
    """
    import pandas as pd

    found = list(ranked(every))
    if not found:
        raise BadInput("no theory has three things to order; prune to three sizes, with measure.theory=true")
    sizes = pd.DataFrame([asdict(each) | {"verdict": each.size} for each in calibrated(every)])
    table = pd.DataFrame([asdict(each) | {"orders": each.orders} for each in found])
    claims = [
        Claim(
            f"{each.theory} orders {each.question} by their {each.damage}",
            {"yes": True, "the other way round": False}.get(each.orders),
            f"rho {each.rho:.2f}"
            + ("" if each.low is None else f" [{each.low:.2f}, {each.high:.2f}]")
            + f", {each.n} groups",
        )
        for each in found
    ]
    setting = (
        f"{len({point.key for point in every})} pruned networks of {', '.join(_tasks(every))}; no fine-tuning. Layers "
        "are pruned alone, the others dense; the loss is that of the calibration samples for layers, of the test split "
        "for networks. Spearman's rank correlation in groups in which only the layer, the budget or the method "
        "differs, averaged over the groups, with 95 % bootstrap intervals over groups. Undecided: it holds 0. "
        "What a theory says beyond its own method's networks is our extension."
    )
    return Outcome(table, claims, setting, numbers={"factors": sizes})


def _tasks(every: Sequence[Point]) -> list[str]:
    return sorted({f"{point.dataset}/{point.model}" for point in every})


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """The rank correlation of each theory with the loss increase, for each question."""
    table = outcome.table[outcome.table["damage"] == LOSS]
    theories = list(table.groupby("theory")["rho"].mean().sort_values(ascending=False).index)
    shown = [question for question in QUESTIONS if (table["question"] == question).any()]
    best = {question: max(_rows(table, question), key=lambda row: row["rho"]) for question in shown}
    sheet = Sheet(
        "Which theory knows the loss increase? "
        + "; ".join(f"{question}: {row['theory']} (rho {row['rho']:.2f})" for question, row in best.items()),
        columns=max(len(shown), 1),
        height=0.8 + 0.24 * len(theories),
        share_x="all",
        share_y="all",
        note="Mean rank correlation over groups with its 95 % bootstrap interval; hollow: the interval holds 0. Second-"
        f"order costs are also judged by their size (a factor of {FACTOR:g}); see the table of factors.",
    )
    for column, question in enumerate(shown):
        panel = sheet.panel(0, column, question)
        for row in _rows(table, question):
            place, decided = theories.index(row["theory"]), row["orders"] != "undecided"
            if row["low"] is not None and row["low"] == row["low"]:
                panel.span((row["low"], place), (row["high"], place), nth(0), 1.6)
            panel.points([row["rho"]], [place], nth(0), filled=decided, size=6)
        panel.rows(theories)
        panel.axes.set_xlim(-1.05, 1.05)
        panel.level(0, "chance", vertical=True)
        panel.label("rank correlation", "")
    return {"theory_points": sheet}


def _rows(table: pd.DataFrame, question: str) -> list[dict[str, Any]]:
    return [dict(row) for _, row in table[table["question"] == question].iterrows()]
