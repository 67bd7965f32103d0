"""Pruned teacher-student networks: closed forms, simulation, and the raw means that the authors publish.

Two-layer erf students, ideal ones and ones trained online, lose edges or nodes by six methods, with and without
reweighting. Their generalisation error follows exactly from the order parameters, so that differences from theory come
from training, from finite size and from the masks alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.dpp._teacher_student import plot, statement, study, study_settings

if TYPE_CHECKING:
    import pandas as pd

PAPER = (
    "R. Acharyya et al., Statistical Mechanical Analysis of Neural Network Pruning, UAI 2021 (arXiv 2006.16617); "
    "published: the raw means of the authors' result files"
)
COLUMNS = {
    "setting": "setting",
    "student": "student",
    "method": "method",
    "reweighted": "reweighted",
    "k": "k",
    "edges": "edges",
    "theory": "theory",
    "published": "published",
    "mean": "ours",
    "std": "std",
    "n": "n",
    "difference_published": "difference",
    "difference": "difference from theory",
    "relative": "relative to theory",
    "agrees": "agrees with theory",
}
SETTING = (
    "ours: mean over students (each the mean of its masks) of the generalisation error E[(student - teacher)^2] / 2, "
    "plus sigma^2 / 2 where the teacher is noisy; std over students; difference = ours - published. Trained students: "
    "N = 500, v* = 4, 800,000 online samples, rate 0.5, as published; the paper trains with the same rule. Every unit "
    "keeps exactly its number of edges. Reweighting is that of infinitely many samples. M = 5, K = 20 has 5 trained "
    "students."
)


def run(work: Workplace) -> Outcome:
    """The whole study; about 15 minutes on one core."""
    settings = study_settings(work.quick)
    full = study(settings)
    table = full[list(COLUMNS)].rename(columns=COLUMNS)
    claims = [_ideal(full), _published(full)]
    for setting in settings:
        own = full[(full["setting"] == setting.label) & ~full["reweighted"] & (full["student"] == "trained")]
        between = own[(own["k"] > 1) & (own["k"] < setting.units - 1)]
        claims.append(_better(between, "dpp_node", "random_node", setting.label))
        claims.append(_better(between, "dpp_node", "importance_node", setting.label))
        few = own[own["k"] <= setting.teachers]
        claims.append(_better(few, "random_edge", "dpp_node", f"{setting.label}, k <= M"))
        claims.append(_better(own, "random_edge", "dpp_node", f"{setting.label}, all k"))
        claims.append(_better(own, "dpp_edge", "random_edge", setting.label))
        claims.append(_better(own, "dpp_edge", "importance_edge", setting.label))
    regimes = " ".join(dict.fromkeys(statement(settings)))  # noise changes no regime
    return Outcome(table, claims, f"{SETTING} In which regime: {regimes}")


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Theory, students and published means."""
    names = {shown: name for name, shown in COLUMNS.items() if name not in ("mean",)}
    return {"errors": plot(outcome.table.rename(columns=names))}


def _ideal(full: pd.DataFrame) -> Claim:
    checked = full[full["agrees"].notna()]
    held = int(checked["agrees"].sum())
    worst = float(checked["difference"].abs().max())
    return Claim(
        "the closed forms give the error of ideal students to 5 %",
        held == len(checked),
        f"{held} of {len(checked)} rows; largest absolute difference {worst:.3f}",
    )


def _published(full: pd.DataFrame) -> Claim:
    known = full[(full["student"] == "trained") & full["published"].notna()]
    if known.empty:
        return Claim("trained students agree with the published raw means", None, "this setting has none")
    off = (known["difference_published"] / known["published"]).abs()
    close = (known["difference_published"].abs() <= 0.1) | (off <= 0.1)
    return Claim(
        "trained students agree with the published raw means to 10 % or 0.1",
        bool(close.all()),
        f"{int(close.sum())} of {len(known)} rows; largest relative difference {off.max():.1%}",
    )


def _better(rows: pd.DataFrame, first: str, second: str, where: str) -> Claim:
    """Whether ``first`` has the lower error at every k; the evidence names the k at which it does not."""
    errors = rows[rows["method"].isin((first, second))].pivot_table(index="k", columns="method", values="mean")
    text = f"{where}: {first.replace('_', ' ')} beats {second.replace('_', ' ')}, without reweighting"
    if errors.empty:
        return Claim(text, None, "no k in this range")
    wins = errors[first] < errors[second]
    pairs = ", ".join(f"k={k}: {row[first]:.3f} against {row[second]:.3f}" for k, row in errors.iterrows())
    return Claim(text, bool(wins.all()), f"lower at {int(wins.sum())} of {len(wins)} k ({pairs})")
