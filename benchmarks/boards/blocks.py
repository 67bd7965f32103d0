"""Compare methods over networks when some networks lack some methods: ranks in incomplete blocks.

A block is a network; its entries are the scores of the methods that were run on it. Friedman's test requires every
method in every block; that of Skillings and Mack (Technometrics 23(2), 1981) allows missing entries. With k_i methods
in block i, their ranks r_ij, and weights w_i = sqrt(12 / (k_i + 1)),

    A_j = sum_i w_i ((k_i + 1) / 2 - r_ij),   V = sum_i w_i^2 s_i / (k_i (k_i - 1)) (k_i I - J),   T = A' V^- A,

where s_i is the sum of squares of the centred ranks (so that ties are corrected for) and the sums run over the methods
of the block. T is chi-square with methods - 1 degrees of freedom. Without missing entries it is Friedman's statistic.

The effects V^- A estimate how far a method is from the average one, whichever blocks it is in. The difference of two
effects, divided by its standard error, is compared with the studentised range, as in Nemenyi's test (Demsar, JMLR 7,
2006); without missing entries the two are the same. Using it for incomplete blocks as well (as Tukey and Kramer do for
unequal numbers of samples) is our extension. Two methods that share fewer than two blocks are not compared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST = 3  # methods, at least, for a comparison by ranks
COMMON = 2  # blocks that two methods must share to be compared


@dataclass(frozen=True)
class Ranked:
    """The comparison of methods over blocks.

    Attributes:
        names: the methods, best first.
        blocks: the number of blocks with at least two methods.
        ranks: the mean rank of each method among all (1 is best); an estimate where blocks lack methods.
        found_in: the number of blocks that contain each method.
        statistic, freedom, p: test statistic, degrees of freedom and p-value of the hypothesis that all methods are
            alike; p is 1 where nothing can be tested.
        z: for each pair, first before second in ``names``, the difference of the effects in standard errors.
        common: for each pair the number of blocks that have both.
    """

    names: tuple[str, ...]
    blocks: int
    ranks: Mapping[str, float]
    found_in: Mapping[str, int]
    statistic: float
    freedom: int
    p: float
    z: Mapping[tuple[str, str], float]
    common: Mapping[tuple[str, str], int]

    def adjusted(self) -> dict[tuple[str, str], float | None]:
        """The p-value of "the two are alike" for each pair, adjusted over all pairs; None for pairs not compared."""
        import numpy as np
        from scipy.stats import studentized_range

        sizes = np.array(list(self.z.values())) * math.sqrt(2)
        tails = np.clip(studentized_range.sf(sizes, len(self.names), np.inf), 0, 1).tolist() if len(sizes) else []
        return {pair: p if self.common[pair] >= COMMON else None for pair, p in zip(self.z, tails, strict=True)}

    def against(self, name: str) -> dict[str, float | None]:
        """The p-value of "it is like ``name``" for every other method, after Holm's correction over them."""
        from scipy.special import ndtr

        from benchmarks.boards.stats import holm

        others = [other for other in self.names if other != name]
        pairs = [(name, other) if (name, other) in self.z else (other, name) for other in others]
        own = [float(2 * ndtr(-self.z[pair])) if self.common[pair] >= COMMON else None for pair in pairs]
        return dict(zip(others, holm(own), strict=True))


def ranked(scores: Mapping[str, Mapping[Any, float]]) -> Ranked | None:
    """Compare methods over blocks by their ranks; None with fewer than three methods or two blocks.

    Args:
        scores: the scores of each method by block; larger is better, and a method may be missing from some blocks.
    """
    import numpy as np

    names = sorted(name for name, own in scores.items() if own)
    blocks = sorted({block for name in names for block in scores[name]}, key=str)
    table = np.array([[scores[name].get(block, math.nan) for name in names] for block in blocks], dtype=float)
    table = table.reshape(len(blocks), len(names))
    table = table[(~np.isnan(table)).sum(axis=1) > 1]
    if len(names) < FEWEST or len(table) < 2:
        return None
    from scipy.stats import chi2, rankdata  # imported here, since it takes a second that most boards do not need

    size = len(names)
    sums, spread = np.zeros(size), np.zeros((size, size))
    common = np.zeros((size, size), dtype=int)
    for row in table:
        here = np.flatnonzero(~np.isnan(row))
        own = len(here)
        centred = (own + 1) / 2 - rankdata(-row[here])
        weight = 12 / (own + 1)
        sums[here] += math.sqrt(weight) * centred
        scale = weight * float(centred @ centred) / (own * (own - 1))
        spread[np.ix_(here, here)] += scale * (own * np.eye(own) - 1)
        common[np.ix_(here, here)] += 1
    inverse = np.linalg.pinv(spread, hermitian=True)
    effects = inverse @ sums
    statistic = float(sums @ effects)
    freedom = int(np.linalg.matrix_rank(spread, hermitian=True))
    p = float(chi2.sf(statistic, freedom)) if freedom else 1.0
    # In complete blocks the effects are w (mean centred rank) / k: this turns them back into ranks.
    ranks = (size + 1) / 2 - effects * size * math.sqrt((size + 1) / 12)
    order = sorted(range(size), key=lambda place: (round(float(ranks[place]), 9), names[place]))
    z, shared = {}, {}
    for position, first in enumerate(order):
        for second in order[position + 1 :]:
            variance = inverse[first, first] + inverse[second, second] - 2 * inverse[first, second]
            pair = names[first], names[second]
            z[pair] = abs(float(effects[first] - effects[second])) / math.sqrt(variance) if variance > 1e-12 else 0.0
            shared[pair] = int(common[first, second])
    found_in = {names[place]: int(common[place, place]) for place in order}
    means = {names[place]: float(ranks[place]) for place in order}
    return Ranked(tuple(means), len(table), means, found_in, statistic, freedom, p, z, shared)


def averaged(scores: Mapping[str, Mapping[Any, float]]) -> dict[str, float]:
    """Each method's mean over the tasks of one network, as if it had been run on all of them.

    A score is modelled as the effect of the method plus that of the task, fitted by least squares; where no score is
    missing, the result is the plain mean. Methods that no common task connects with the largest set of methods are left
    out.

    Args:
        scores: for each method its score by task.
    """
    import numpy as np

    scores = _connected(scores)
    names = sorted(scores)
    tasks = sorted({task for own in scores.values() for task in own}, key=str)
    if not names:
        return {}
    rows, values = [], []
    for number, name in enumerate(names):
        for task, value in sorted(scores[name].items(), key=str):
            row = np.zeros(len(names) + len(tasks))
            row[number] = row[len(names) + tasks.index(task)] = 1
            rows.append(row)
            values.append(value)
    solved = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    level = float(solved[len(names) :].mean())
    return {name: round(float(solved[number]) + level, 12) for number, name in enumerate(names)}


def _connected(scores: Mapping[str, Mapping[Any, float]]) -> dict[str, Mapping[Any, float]]:
    """The largest set of methods that are connected by common tasks; of sets of equal size, the first by name."""
    left = {name: own for name, own in sorted(scores.items()) if own}
    parts: list[dict[str, Mapping[Any, float]]] = []
    while left:
        part: dict[str, Mapping[Any, float]] = {}
        tasks = set(next(iter(left.values())))
        while found := {name: own for name, own in left.items() if tasks & own.keys()}:
            part |= found
            tasks |= {task for own in found.values() for task in own}
            left = {name: own for name, own in left.items() if name not in found}
        parts.append(part)
    return max(parts, key=len, default={})
