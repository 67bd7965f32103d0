r"""Pruning a two-layer erf student that learned from a teacher: theory, simulation and published numbers side by side.

Setting of Acharyya et al. (UAI 2021, arXiv 2006.16617) after Goldt et al. (NeurIPS 2019); see
``benchmarks.teacher_student_theory`` for the closed forms. Students learn online (one new sample per step):

    W_k -= (eta / sqrt N) Delta v_k g'(h_k) x,   v_k -= (eta / N) Delta g(h_k),   h = W x / sqrt N,
    Delta = student - y.

Their generalisation error follows exactly from the order parameters, before and after pruning: no test set, no sampling
noise but that of training and of the masks. Every unit keeps exactly its number of edges. The node kernel is the one of
the paper's simulations, linear in the pre-activations, hence Q; the edge kernel is diag(w^2).

Reweighting is with infinitely many samples. Kept nodes take over the regression of the removed ones on them; for edges
it changes nothing, because inputs are independent.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import erf

from benchmarks import teacher_student_theory as theory
from methods.determinantal import KDPP, linear_kernel, sample_conditional_poisson
from methods.dpp import equal_edges
from methods.progress import track
from methods.seeds import stream

Array = NDArray[np.float64]
METHODS = ("random_edge", "dpp_edge", "importance_edge", "random_node", "dpp_node", "importance_node")
RANK_JITTER = 1e-9  # relative; lets a k-DPP with a kernel of rank M draw more than M nodes


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for PyTorch inside: the many small products of online training only wait for each other on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Setting:
    """One experiment.

    Attributes:
        teachers, copies: M and z; the student has K = M z units.
        inputs: N.
        v_star: second-layer weight of the teacher.
        sigma: standard deviation of the noise on the teacher's output; errors then include sigma^2 / 2.
        steps: online samples.
        rate: learning rate eta.
        students: independent teachers and students.
        draws: masks per student, for methods that draw.
        nodes: the k to prune to; None is 1..K-1.
    """

    teachers: int = 2
    copies: int = 3
    inputs: int = 500
    v_star: float = 4.0
    sigma: float = 0.0
    steps: int = 800_000
    rate: float = 0.5
    students: int = 5
    draws: int = 10
    nodes: tuple[int, ...] | None = None

    @property
    def units(self) -> int:
        """K."""
        return self.teachers * self.copies

    @property
    def label(self) -> str:
        """For tables."""
        noise = f" sigma={self.sigma:g}" if self.sigma else ""
        return f"M={self.teachers} K={self.units}{noise}"


@dataclass(frozen=True)
class Student:
    """First layer W (K, N) and second layer v (K,), with the teacher's W* (M, N) and v* (M,)."""

    weight: Array
    v: Array
    teacher: Array
    v_star: Array

    def error(self, weight: Array | None = None, nodes: Array | None = None, v: Array | None = None) -> float:
        """eps_g with other first-layer weights, or with only some nodes and their second-layer weights."""
        weight = self.weight if weight is None else weight
        v = self.v if v is None else v
        if nodes is not None:
            weight = weight[nodes]
        inputs = weight.shape[1]
        q, r, t = (a @ b.T / inputs for a, b in ((weight, weight), (weight, self.teacher), (self.teacher,) * 2))
        return theory.generalisation_error(q, r, t, v, self.v_star)


def ideal_students(setting: Setting, seed: int) -> list[Student]:
    """Students that know their teacher: z copies of each orthogonal teacher unit, second layer v*/z."""
    students = []
    for number in range(setting.students):
        generator = stream(seed, "ideal", setting.label, number)
        normal = torch.randn(setting.inputs, setting.teachers, generator=generator, dtype=torch.float64)
        teacher = torch.linalg.qr(normal).Q.T.numpy() * np.sqrt(setting.inputs)
        weight = np.repeat(teacher, setting.copies, axis=0)
        v = np.full(setting.units, setting.v_star / setting.copies)
        students.append(Student(weight, v, teacher, np.full(setting.teachers, setting.v_star)))
    return students


@single_thread()
def trained_students(setting: Setting, seed: int, block: int = 48) -> list[Student]:
    """Students after ``setting.steps`` online steps, all of them side by side.

    A step changes W by a multiple of its input, so a block of steps needs only W X^T before it, the Gram matrix X X^T
    and, after it, one product: exactly online SGD, in matrix products. As the paper's simulations do, rows of W are
    scaled to norm sqrt N at the end.
    """
    size, units = setting.students, setting.units
    generator = stream(seed, "trained", setting.label)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    root = setting.inputs**0.5
    teacher = normal(size, setting.teachers, setting.inputs)
    weight = normal(size, units, setting.inputs)
    v = normal(size, units).double().numpy()
    for start in track(range(0, setting.steps, block), f"online training, {setting.label}"):
        x = normal(size, min(block, setting.steps - start), setting.inputs)
        target = setting.v_star * torch.erf(x @ teacher.mT / (root * 2**0.5)).sum(2)
        target = target + setting.sigma * normal(*target.shape)
        gram = (x @ x.mT / root).permute(1, 2, 0).double().numpy()  # (block, block, students)
        fields = (x @ weight.mT / root).transpose(0, 1).double().numpy()  # (block, students, units)
        change = _online_block(fields, gram, target.T.double().numpy(), v, setting.rate, setting.inputs)
        weight += torch.from_numpy(change).permute(1, 2, 0).float() @ x
    weight = weight.double() * root / weight.double().norm(dim=2, keepdim=True)
    v_star = np.full(setting.teachers, setting.v_star)
    parts = zip(weight.numpy(), v, teacher.double().numpy(), strict=True)
    return [Student(w, second, w_star, v_star) for w, second, w_star in parts]


def _online_block(fields: Array, gram: Array, target: Array, v: Array, rate: float, inputs: int) -> Array:
    """Multiples of each input (block, students, units) by which W changes; ``v`` (students, units) changes in place."""
    change = np.empty_like(fields)
    slope, root_two = (2 / np.pi) ** 0.5, 2**0.5
    for step, h in enumerate(fields):
        g = erf(h / root_two)
        delta = ((v * g).sum(1) - target[step])[:, None]
        change[step] = -(rate * slope / inputs**0.5) * delta * v * np.exp(-h * h / 2)
        v -= (rate / inputs) * delta * g
        fields[step + 1 :] += gram[step, step + 1 :, :, None] * change[step]
    return change


def prune_edges(method: str, student: Student, edges: int, generator: torch.Generator) -> Array:
    """First-layer weights with exactly ``edges`` kept per unit."""
    mask = np.zeros_like(student.weight)
    for row, weight in zip(mask, student.weight, strict=True):
        if method == "random_edge":
            kept = torch.randperm(len(weight), generator=generator)[:edges].numpy()
        elif method == "dpp_edge":
            kept = sample_conditional_poisson(torch.from_numpy(weight**2), edges, generator).numpy()
        else:
            kept = np.argsort(-np.abs(weight), kind="stable")[:edges]
        row[kept] = 1.0
    return student.weight * mask


def prune_nodes(method: str, student: Student, k: int, generator: torch.Generator) -> NDArray[np.int64]:
    """Indices of the ``k`` nodes that stay."""
    if method == "random_node":
        return np.sort(torch.randperm(len(student.v), generator=generator)[:k].numpy())
    if method == "dpp_node":
        q = torch.from_numpy(student.weight @ student.weight.T / student.weight.shape[1])
        return KDPP.from_kernel(linear_kernel(q, RANK_JITTER)).sample(k, generator).numpy()
    return np.sort(np.argsort(-np.abs(student.v), kind="stable")[:k])


def reweight_nodes(student: Student, kept: NDArray[np.int64]) -> Array:
    """Second-layer weights of the kept nodes after regressing the whole layer on them, with infinitely many samples."""
    q = student.weight @ student.weight.T / student.weight.shape[1]
    gram = theory.erf_covariance(q, q.diagonal(), q.diagonal())
    own, cross = gram[np.ix_(kept, kept)], gram[kept]
    return np.linalg.pinv(own, rcond=1e-10, hermitian=True) @ cross @ student.v


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


def errors(
    student: Student, method: str, k: int, edges: int, draws: int, generator: torch.Generator
) -> tuple[float, float]:
    """Mean eps_g over the draws, without and with reweighting."""
    plain, reweighted = [], []
    for _ in range(1 if method.startswith("importance") else draws):
        if method.endswith("edge"):
            plain.append(student.error(prune_edges(method, student, edges, generator)))
            reweighted.append(plain[-1])
        else:
            kept = prune_nodes(method, student, k, generator)
            plain.append(student.error(nodes=kept, v=student.v[kept]))
            reweighted.append(student.error(nodes=kept, v=reweight_nodes(student, kept)))
    return float(np.mean(plain)), float(np.mean(reweighted))


def study(settings: Sequence[Setting] = (Setting(),), seed: int = 0) -> pd.DataFrame:
    """One row per setting, kind of student, method, reweighting and k; published numbers where there are any.

    ``mean``, ``std`` and ``n`` are over students, each the average of its draws; ``difference`` is mean - theory,
    ``relative`` the same over theory.
    """
    rows: list[dict[str, object]] = []
    for setting in settings:
        for kind, make in (("ideal", ideal_students), ("trained", trained_students)):
            rows.extend(_rows(setting, kind, make(setting, seed), seed))
    table = pd.DataFrame(rows)
    table["difference"] = table["mean"] - table["theory"]
    table["relative"] = (table["difference"] / table["theory"]).where(table["theory"] > 0)
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
        pairs = [
            errors(student, method, k, edges, setting.draws, stream(seed, setting.label, kind, number, method, k))
            for number, student in enumerate(students)
        ]
        for reweighted in (False, True):
            values = [pair[reweighted] for pair in pairs]
            yield row(method, k, edges, reweighted, values, expected(method, reweighted, k, edges, setting))


def statement(settings: Sequence[Setting]) -> str:
    """In which regime the claim about random edges holds, from theory."""
    lines = [theory.regime(s.teachers, s.copies) for s in settings]
    lines.append(
        f"With few parameters left (slopes at c = 0) random edges win for z > {theory.smallest_winning_copies():.2f}; "
        "with reweighting DPP nodes are exact from k = M on, and random edges never win there."
    )
    return "\n".join(f"- {line}" for line in lines)


def plot(table: pd.DataFrame) -> Figure:
    """Error against k: theory as lines, ideal and trained students as markers, published means as crosses."""
    labels = list(table["setting"].unique())
    figure = Figure(figsize=(11, 4.2 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), 2, squeeze=False)
    for line, label in zip(axes, labels, strict=True):
        for axis, reweighted in zip(line, (False, True), strict=True):
            part = table[(table["setting"] == label) & (table["reweighted"] == reweighted)]
            for number, method in enumerate(METHODS):
                own = part[part["method"] == method]
                ideal, trained = (own[own["student"] == kind] for kind in ("ideal", "trained"))
                colour = f"C{number}"
                axis.plot(ideal["k"], ideal["theory"], color=colour, label=method.replace("_", " "))
                axis.plot(ideal["k"], ideal["mean"], "o", mfc="none", color=colour)
                axis.errorbar(trained["k"], trained["mean"], trained["std"].fillna(0), fmt=".", color=colour, capsize=2)
                axis.plot(trained["k"], trained["published"], "x", color=colour)
            axis.set_title(f"{label}, {'with' if reweighted else 'without'} reweighting")
            axis.set_xlabel("nodes kept (or as many parameters in edges)")
            axis.set_ylabel("generalisation error")
    axes[0, 1].legend(title="line theory, o ideal, . trained, x published", fontsize="small")
    return figure


def markdown(table: pd.DataFrame, settings: Sequence[Setting]) -> str:
    """The report: the statement, then one line per row of the table."""
    columns = ["setting", "student", "method", "reweighted", "k", "edges", "theory", "mean", "std", "n", "published"]
    columns += ["difference", "relative", "difference_published"]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for _, row in table[columns].iterrows():
        lines.append("| " + " | ".join(_cell(name, value) for name, value in row.items()) + " |")
    return (
        "# Pruned teacher-student networks\n\n"
        "Generalisation error of ideal students (z exact copies of each teacher unit) and of students trained online, "
        "beside the closed forms and the raw means of the authors' result files.\n\n"
        f"{statement(settings)}\n\n" + "\n".join(lines) + "\n"
    )


def _cell(name: object, value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:+.1%}" if name == "relative" else f"{value:.3f}"
    return {True: "yes", False: "no"}[bool(value)] if isinstance(value, bool | np.bool_) else str(value)


def run(out: Path, quick: bool = False, seed: int = 0) -> pd.DataFrame:
    """Run the study and write teacher_student.csv, .md and .svg into ``out``; ``quick`` shrinks it to seconds."""
    settings = [Setting(), Setting(teachers=5, copies=4, draws=3, nodes=(1, 2, 3, 4, 5, 8, 10, 12, 15))]
    if quick:
        settings = [replace(settings[0], inputs=100, steps=80_000, students=2, draws=4)]
    table = study(settings, seed)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "teacher_student.csv", index=False, float_format="%.6g")
    (out / "teacher_student.md").write_text(markdown(table, settings), encoding="utf-8")
    plot(table).savefig(out / "teacher_student.svg")
    return table
