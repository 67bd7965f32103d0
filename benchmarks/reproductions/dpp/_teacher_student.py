r"""Pruning a two-layer erf student that learned from a teacher: theory, simulation and published numbers side by side.

The closed forms are in ``benchmarks.reproductions.dpp._teacher_student_theory``, the students in
``benchmarks.reproductions.dpp._erf_students``. Their generalisation error follows exactly from the order parameters,
before and after pruning: no test set, no sampling noise but that of training and of the masks.

Reweighting is with infinitely many samples. Kept nodes take over the regression of the removed ones on them; for edges
it changes nothing, because inputs are independent.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from benchmarks.figures.looks import look
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions.dpp import _teacher_student_theory as theory
from benchmarks.reproductions.dpp._erf_students import (
    Setting,
    Student,
    ideal_students,
    prune_edges,
    prune_nodes,
    reweight_nodes,
    trained_students,
)
from methods.dpp.selection import equal_edges
from methods.progress import track
from methods.seeds import stream

SHOWN = {
    "random": ("random", look("random")),
    "dpp": ("DPP", look("dpp")),
    "importance": ("largest", look("magnitude")),
}
METHODS = ("random_edge", "dpp_edge", "importance_edge", "random_node", "dpp_node", "importance_node")
TOLERANCE = 0.05  # relative, between theory and ideal students
ZERO = 1e-6  # an error that theory says is 0 may have the rounding of a regression


def expected(method: str, reweighted: bool, k: int, edges: int, setting: Setting) -> float:
    """The closed form for ideal students; NaN for node importance, where all of an ideal student's nodes tie."""
    size = (setting.teachers, setting.copies, setting.v_star)
    forms: dict[str, Callable[[], float]] = {
        "random_edge": lambda: theory.random_edge(edges / setting.inputs, *size),
        "dpp_edge": lambda: theory.dpp_edge(edges / setting.inputs, *size),
        "importance_edge": lambda: theory.importance_edge(edges / setting.inputs, *size),
        "random_node": lambda: (theory.random_node_reweighted if reweighted else theory.random_node)(k, *size),
        "dpp_node": lambda: (theory.dpp_node_reweighted if reweighted else theory.dpp_node)(k, *size),
    }
    return forms[method]() if method in forms else float("nan")


def edge_error(student: Student, method: str, edges: int, draws: int, generator: torch.Generator) -> float:
    """Mean eps_g over the draws; the same with and without reweighting."""
    draws = 1 if method == "importance_edge" else draws
    return float(np.mean([student.error(prune_edges(method, student, edges, generator)) for _ in range(draws)]))


def node_errors(student: Student, method: str, k: int, draws: int, generator: torch.Generator) -> tuple[float, float]:
    """Mean eps_g over the draws, without and with reweighting."""
    draws = 1 if method == "importance_node" else draws
    sets = Counter(tuple(prune_nodes(method, student, k, generator).tolist()) for _ in range(draws))
    plain = reweighted = 0.0
    for nodes, times in sets.items():
        kept = np.array(nodes)
        plain += times / draws * student.error(nodes=kept, v=student.v[kept])
        reweighted += times / draws * student.error(nodes=kept, v=reweight_nodes(student, kept))
    return plain, reweighted


def study(settings: Sequence[Setting] = (Setting(),), seed: int = 0) -> pd.DataFrame:
    """One row per setting, kind of student, method, reweighting and k; published numbers where there are any.

    ``mean``, ``std`` and ``n`` are over students, each the average of its draws; ``difference`` is mean - theory,
    ``relative`` the same over theory. ``agrees`` says for ideal students whether that is within 5 %.
    """
    rows: list[dict[str, object]] = []
    for setting in settings:
        for kind, make in (("ideal", ideal_students), ("trained", trained_students)):
            rows.extend(_rows(setting, kind, make(setting, seed), seed))
    table = pd.DataFrame(rows)
    table["difference"] = table["mean"] - table["theory"]
    table["relative"] = (table["difference"] / table["theory"]).where(table["theory"] > 0)
    close = table["difference"].abs() <= np.maximum(TOLERANCE * table["theory"], ZERO)
    table["agrees"] = close.where((table["student"] == "ideal") & table["theory"].notna()).astype("boolean")
    table["difference_published"] = table["mean"] - table["published"]
    return table


def _rows(setting: Setting, kind: str, students: Sequence[Student], seed: int) -> Iterator[dict[str, object]]:
    floor = setting.sigma**2 / 2
    is_published = (setting.teachers, setting.units, setting.inputs, setting.v_star) == (2, 6, 500, 4.0)
    published = theory.PUBLISHED.get(setting.sigma, {}) if is_published else {}

    def row(
        method: str, k: int, edges: int, reweighted: bool, values: list[float], theory_value: float
    ) -> dict[str, object]:
        known = published.get(method, ()) if not reweighted else ()
        return {
            "setting": setting.label,
            "student": kind,
            "method": method,
            "reweighted": reweighted,
            "k": k,
            "edges": edges,
            "theory": theory_value + floor,
            "mean": float(np.mean(values)) + floor,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
            "n": len(values),
            "published": known[k - 1] if k <= len(known) else float("nan"),
        }

    unpruned = row("unpruned", setting.units, setting.inputs, False, [s.error() for s in students], 0.0)
    if is_published and kind == "trained":
        unpruned["published"] = theory.PUBLISHED_UNPRUNED.get(setting.sigma, float("nan"))
    yield unpruned
    cells = [(method, k) for method in METHODS for k in setting.nodes or range(1, setting.units)]
    for method, k in track(cells, f"pruning {kind} students, {setting.label}"):
        edges = equal_edges(k, setting.inputs, setting.units, 1)
        pairs = []
        for number, student in enumerate(students):
            generator = stream(seed, setting.label, kind, number, method, k)
            if method.endswith("edge"):
                pairs.append((edge_error(student, method, edges, setting.draws, generator),) * 2)
            else:
                pairs.append(node_errors(student, method, k, setting.node_draws, generator))
        for reweighted in (False, True):
            values = [pair[reweighted] for pair in pairs]
            yield row(method, k, edges, reweighted, values, expected(method, reweighted, k, edges, setting))


def statement(settings: Sequence[Setting]) -> list[str]:
    """In which regime the claim about random edges holds, from theory, in sentences."""
    lines = [theory.regime(s.teachers, s.copies) for s in settings]
    lines.append(
        f"With few parameters left (slopes at c = 0) random edges win for z > {theory.smallest_winning_copies():.2f}; "
        "with reweighting DPP nodes are exact from k = M on, and random edges never win there."
    )
    return lines


def plot(table: pd.DataFrame) -> Sheet:
    """Error against k: theory as lines, trained students as markers, published means as hollow ones."""
    labels = list(table["setting"].unique())
    own = table[(table["student"] == "trained") & (table["theory"] > 0) & (table["method"] != "unpruned")]
    off = [
        own[own["method"].str.endswith(unit) & (own["reweighted"] == reweighted)]["relative"].abs().median()
        for unit, reweighted in (("edge", False), ("node", False), ("node", True))
    ]
    sheet = Sheet(
        "How far trained students are from the theory of ideal ones once pruned (median): edges "
        f"{100 * off[0]:.0f} %, nodes {100 * off[1]:.0f} %, reweighted nodes {100 * off[2]:.0f} %",
        rows=len(labels),
        columns=3,
        height=2.3,
        share_x="row",
        share_y="row",
        key=[Sign("theory", marker=False), Sign("trained", line=False), Sign("published", line=False, filled=False)],
        note="M teacher units, K student units, sigma: noise of the teacher. Edges: as many weights as with that "
        "many nodes; reweighting changes nothing for them. Bars: sample standard deviation over students. No closed "
        "form for the largest norms.",
    )
    columns = (("edge", False, "edges"), ("node", False, "nodes"), ("node", True, "nodes, reweighted"))
    for row, label in enumerate(labels):
        for column, (unit, reweighted, title) in enumerate(columns):
            panel = sheet.panel(row, column, title)
            own = table[(table["setting"] == label) & (table["reweighted"] == reweighted)]
            for name, (shown, style) in SHOWN.items():
                part = own[own["method"] == f"{name}_{unit}"]
                theory, found = (part[part["student"] == kind] for kind in ("ideal", "trained"))
                if theory["theory"].notna().any():
                    panel.line(theory["k"], theory["theory"], style, marker=False)
                panel.points(
                    *(found["k"], found["ours"], style),
                    std=found["std"].fillna(0),
                    label=shown if column == 2 else "",
                )
                panel.points(found["k"], found["published"], style, filled=False, size=6.5)
            named = label.replace("M=", "M = ").replace(" K=", ", K = ").replace(" sigma=", ", sigma = ")
            panel.label("nodes kept", f"generalisation error\n{named}", (0, math.inf))
            panel.whole("x")
    return sheet


def study_settings(quick: bool = False) -> list[Setting]:
    """M = 2, K = 6 as published, without and with noise, and M = 5, K = 20; ``quick`` is one much smaller setting."""
    if quick:
        return [Setting(inputs=100, steps=80_000, students=2, ideals=2, draws=4, node_draws=50)]
    return [
        Setting(),
        Setting(sigma=0.25),
        Setting(
            teachers=5, copies=4, students=5, ideals=40, draws=3, node_draws=3000, nodes=(1, 2, 3, 4, 5, 8, 10, 12, 15)
        ),
    ]
