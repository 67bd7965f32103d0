r"""Generalisation error of pruned two-layer erf students, in closed form.

Acharyya et al., "Statistical Mechanical Analysis of Neural Network Pruning", UAI 2021 (arXiv 2006.16617), with the
teacher-student setting of Goldt et al. (NeurIPS 2019). Inputs x ~ N(0, I_N); the teacher is
y = sum_{m<=M} v* erf(w*_m.x / sqrt(2N)), the student the same with K units. With the order parameters
Q = W W^T / N, R = W W*^T / N, T = W* W*^T / N (K x K, K x M, M x M) the error eps_g = E[(student - teacher)^2] / 2 is a
sum of E[g(a) g(b)] = (2/pi) asin(C_ab / sqrt((1 + C_aa)(1 + C_bb))), a and b jointly Gaussian, g(h) = erf(h / sqrt 2).

The closed forms below are for the ideal student: T = I, units in M blocks of z = K/M copies of a teacher unit, second
layer v*/z. c is the fraction of edges kept per unit, k the number of nodes kept. The one for random edges is the
paper's (section on edge pruning, as its authors' code evaluates it); those for DPP and importance pruning and for
reweighting with infinitely many samples are our derivations.
"""

from collections.abc import Sequence
from math import comb, exp, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import erfcx, ndtri

Array = NDArray[np.float64]

# Raw means of the authors' result files (10 rounds) for M=2, K=6, N=500, v*=4 and k = 1..5 nodes or
# 83, 166, 250, 333, 417 edges per unit; keys are the standard deviation of the teacher's output noise. Their losses are
# measured on noisy labels and so include sigma^2 / 2.
PUBLISHED: dict[float, dict[str, tuple[float, ...]]] = {
    0.0: {
        "random_edge": (3.651, 2.500, 1.602, 0.930, 0.404),
        "dpp_node": (3.737, 2.310, 1.438, 0.740, 0.258),
        "dpp_edge": (2.403, 1.231, 0.591, 0.240, 0.071),
    },
    0.25: {
        "random_edge": (3.769, 2.558, 1.675, 1.007, 0.490),
        "dpp_node": (4.000, 2.622, 1.634, 0.890, 0.394),
        "dpp_edge": (2.398, 1.213, 0.608, 0.300, 0.159),
    },
}
PUBLISHED_UNPRUNED = {0.0: 0.0257, 0.25: 0.1205}


def erf_covariance(covariance: ArrayLike, first: ArrayLike, second: ArrayLike) -> Array:
    """E[g(a_i) g(b_j)], given Cov(a_i, b_j) (n, m) and the variances of a (n,) and b (m,)."""
    scale = np.sqrt(np.outer(1 + np.asarray(first), 1 + np.asarray(second)))
    return (2 / pi) * np.arcsin(np.clip(np.asarray(covariance) / scale, -1, 1))


def generalisation_error(q: Array, r: Array, t: Array, v: Array, v_star: Array) -> float:
    """eps_g of a student with order parameters Q, R, T, second layer v (K,) and a teacher with v* (M,)."""
    own, other = q.diagonal(), t.diagonal()
    student = v @ erf_covariance(q, own, own) @ v
    teacher = v_star @ erf_covariance(t, other, other) @ v_star
    return float((student + teacher - 2 * v @ erf_covariance(r, own, other) @ v_star) / 2)


def block_error(q_own: float, q_block: float, r: float, teachers: int, copies: int, v_star: float) -> float:
    """eps_g of M blocks of z units with Q_ii = q_own, Q_ij = q_block inside a block, R = r, second layer v*/z."""
    own = np.arcsin(q_own / (1 + q_own)) / copies
    block = np.arcsin(q_block / (1 + q_own)) * (1 - 1 / copies)
    return teachers * v_star**2 / pi * float(own + block + pi / 6 - 2 * np.arcsin(r / sqrt(2 * (1 + q_own))))


def random_edge(c: float, teachers: int, copies: int, v_star: float) -> float:
    """Independent masks: Q_ii = R = c, and c^2 between copies."""
    return block_error(c, c * c, c, teachers, copies, v_star)


def importance_edge(c: float, teachers: int, copies: int, v_star: float) -> float:
    """The largest |w|, w ~ N(0, 1): all copies keep the same edges, Q = R = E[w^2; |w| > tau]."""
    tau = float(ndtri(1 - c / 2))
    kept = 2 * tau * exp(-tau * tau / 2) / sqrt(2 * pi) + c
    return block_error(kept, kept, kept, teachers, copies, v_star)


def dpp_edge(c: float, teachers: int, copies: int, v_star: float) -> float:
    """Linear kernel, which is diag(w^2) for independent inputs: edge e stays with probability w^2 / (w^2 + a).

    a makes the mean probability c. Q_ii = R = E[p w^2] and Q_ij = E[p^2 w^2] between copies, w ~ N(0, 1), all from
    I_1 = E[1 / (w^2 + a)] = sqrt(pi / 2a) erfcx(sqrt(a / 2)) and I_2 = -dI_1/da.
    """
    if c >= 1:
        return block_error(1.0, 1.0, 1.0, teachers, copies, v_star)

    def first(a: float) -> float:
        return sqrt(pi / (2 * a)) * float(erfcx(sqrt(a / 2)))

    a = float(brentq(lambda a: 1 - a * first(a) - c, 1e-12, 1e4, xtol=1e-14))
    one = first(a)
    two = (1 + one - a * one) / (2 * a)
    kept = 1 - a + a**2 * one
    both = 1 - 2 * a + 3 * a**2 * one - a**3 * two
    return block_error(kept, both, kept, teachers, copies, v_star)


def node_error(counts: Sequence[int], copies: int, v_star: float) -> float:
    """Nodes kept per block without reweighting: (v*^2 / 6) sum_n (1 - k_n / z)^2."""
    return v_star**2 / 6 * sum((1 - n / copies) ** 2 for n in counts)


def balanced_node(k: int, teachers: int, copies: int, v_star: float) -> float:
    """Nodes spread as evenly over the blocks as they go, the best that a selection can do."""
    low, more = divmod(k, teachers)
    return node_error([low + 1] * more + [low] * (teachers - more), copies, v_star)


def random_node(k: int, teachers: int, copies: int, v_star: float) -> float:
    """Of K nodes k uniformly: k_n is hypergeometric."""
    units, share = teachers * copies, k / teachers
    variance = share * (1 - 1 / teachers) * (units - k) / (units - 1) if units > 1 else 0.0
    return teachers * v_star**2 / 6 * (1 - 2 * k / units + (variance + share**2) / copies**2)


def dpp_node(k: int, teachers: int, copies: int, v_star: float) -> float:
    """k-DPP with the linear kernel Q (blocks of ones) plus a vanishing multiple delta of the identity.

    det of a block with n items is delta^(n-1) (n + delta). As delta goes to 0 a draw first covers as many blocks as it
    can; beyond that, counts k_n >= 1 have probability proportional to prod_n C(z, k_n) k_n. So for k > M the draw is
    NOT always balanced: z = 3, k = 4 gives 2:2 in two of three draws.
    """
    if k <= teachers:
        return node_error([1] * k + [0] * (teachers - k), copies, v_star)
    sizes = np.arange(copies + 1)
    weight = np.array([float(comb(copies, n) * n) for n in range(copies + 1)])
    weight /= weight.max()
    others = np.array([1.0])
    for _ in range(teachers - 1):
        others = np.convolve(others, weight)
    left = k - sizes
    possible = (left >= 0) & (left < len(others))
    probability = weight * np.where(possible, others[np.where(possible, left, 0)], 0.0)
    probability /= probability.sum()
    return float(teachers * v_star**2 / 6 * (probability @ (1 - sizes / copies) ** 2))


def dpp_node_reweighted(k: int, teachers: int, copies: int, v_star: float) -> float:
    """A kept unit takes over its removed copies: only the M - k uncovered blocks are lost."""
    return v_star**2 / 6 * max(teachers - k, 0)


def random_node_reweighted(k: int, teachers: int, copies: int, v_star: float) -> float:
    """Blocks without a kept unit: each of M is empty with probability C(K - z, k) / C(K, k)."""
    units = teachers * copies
    return teachers * v_star**2 / 6 * comb(units - copies, k) / comb(units, k)


def random_edge_wins(teachers: int, copies: int) -> list[int]:
    """The k at which random edges are better than DPP nodes with as many parameters (c = k / K), before reweighting."""
    units = teachers * copies
    return [
        k for k in range(1, units) if random_edge(k / units, teachers, copies, 1.0) < dpp_node(k, teachers, copies, 1.0)
    ]


def regime(teachers: int, copies: int) -> str:
    """In words, where the claim that random edge pruning beats DPP node pruning holds for this M and z."""
    wins, units = random_edge_wins(teachers, copies), teachers * copies
    where = f"holds for k = {_ranges(wins)}" if wins else "holds for no k"
    loses = [k for k in range(1, units) if k not in wins]
    failing = f", fails for k = {_ranges(loses)}" if loses else ""
    return (
        f"M={teachers}, K={units} (z={copies}): 'random edge beats DPP node at equal parameters, without reweighting' "
        f"{where}{failing}."
    )


def smallest_winning_copies() -> float:
    """The z above which random edges win in the limit of few parameters.

    Slopes of eps_g / (M v*^2) at c = 0: -sqrt(2)/pi + 1/(pi z) for random edges, -1/3 + 1/(6 z) for balanced nodes with
    k a multiple of M.
    """
    return (1 / pi - 1 / 6) / (sqrt(2) / pi - 1 / 3)


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
