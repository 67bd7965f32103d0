r"""Two-layer erf students: those that know their teacher, those that learned online, and how they are pruned.

Setting of Acharyya et al. (UAI 2021, arXiv 2006.16617) after Goldt et al. (NeurIPS 2019), one new sample per step:

    W_k -= (eta / sqrt N) Delta v_k g'(h_k) x,   v_k -= (eta / N) Delta g(h_k),   h = W x / sqrt N,
    Delta = student - y,   g(h) = erf(h / sqrt 2).

Every unit keeps exactly its number of edges. The node kernel is the one of the paper's simulations, linear in the
pre-activations, hence Q; the edge kernel is diag(w^2), its value with infinitely many independent inputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf

from benchmarks.reproductions.dpp import _teacher_student_theory as theory
from methods.dpp.determinantal import KDPP, linear_kernel, sample_conditional_poisson
from methods.progress import track
from methods.seeds import stream

Array = NDArray[np.float64]
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
        ideals: ideal students; they cost no training, and theory is compared with them closely.
        draws: edge masks per student, for methods that draw.
        node_draws: sets of nodes per student, for methods that draw; they are cheap and their errors differ much.
        nodes: the k to prune to; None is 1..K-1.
    """

    teachers: int = 2
    copies: int = 3
    inputs: int = 500
    v_star: float = 4.0
    sigma: float = 0.0
    steps: int = 800_000
    rate: float = 0.5
    students: int = 10
    ideals: int = 100
    draws: int = 5
    node_draws: int = 1000
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

    @cached_property
    def overlaps(self) -> tuple[Array, Array, Array]:
        """The order parameters Q (K, K), R (K, M) and T (M, M) of the unpruned student."""
        return self._overlaps(self.weight)

    @cached_property
    def node_kdpp(self) -> KDPP:
        """Of the linear node kernel Q, decomposed once for all draws."""
        return KDPP.from_kernel(linear_kernel(torch.from_numpy(self.overlaps[0]), RANK_JITTER))

    @cached_property
    def node_gram(self) -> Array:
        """(K, K) covariance of the outputs g(h) of the nodes."""
        q = self.overlaps[0]
        return theory.erf_covariance(q, q.diagonal(), q.diagonal())

    def error(self, weight: Array | None = None, nodes: Array | None = None, v: Array | None = None) -> float:
        """eps_g with other first-layer weights, or with only some nodes and their second-layer weights."""
        q, r, t = self.overlaps if weight is None else self._overlaps(weight)
        if nodes is not None:
            q, r = q[np.ix_(nodes, nodes)], r[nodes]
        return theory.generalisation_error(q, r, t, self.v if v is None else v, self.v_star)

    def _overlaps(self, weight: Array) -> tuple[Array, Array, Array]:
        pairs = ((weight, weight), (weight, self.teacher), (self.teacher, self.teacher))
        q, r, t = (a @ b.T / weight.shape[1] for a, b in pairs)
        return q, r, t


def ideal_students(setting: Setting, seed: int) -> list[Student]:
    """Students that know their teacher: z copies of each orthogonal teacher unit, second layer v*/z."""
    students = []
    for number in range(setting.ideals):
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
        return student.node_kdpp.sample(k, generator).numpy()
    return np.sort(np.argsort(-np.abs(student.v), kind="stable")[:k])


def reweight_nodes(student: Student, kept: NDArray[np.int64]) -> Array:
    """Second-layer weights of the kept nodes after regressing the whole layer on them, with infinitely many samples."""
    gram = student.node_gram
    own, cross = gram[np.ix_(kept, kept)], gram[kept]
    return np.linalg.pinv(own, rcond=1e-10, hermitian=True) @ cross @ student.v
