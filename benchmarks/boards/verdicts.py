"""Which of two methods is better: moderated t tests of all pairs of a board, in three words.

For every pair of methods a board says *better* (or *worse*), *equal* within a stated margin, or *undecided*. A claim is
better or equal; Holm's correction over the pairs keeps the chance of any false claim of a board at 5 %.

Few seeds give no useful estimate of the variance of a pair's differences, and one variance for all pairs is wrong,
since a bad method scatters fifty times as much as a good one. The moderated t test is a compromise (Smyth, Statistical
Applications in Genetics and Molecular Biology 3(1), 2004, sections 3 to 6; the method of the package limma): the
variances of all pairs of a network are draws from a scaled inverse chi-square distribution, which is fitted to them by
the moments of log s^2, and each variance is shrunk towards it:

    s~^2 = (d0 s0^2 + d s^2) / (d0 + d),   t = mean / (s~ / sqrt(n)) with d0 + d degrees of freedom, d = n - 1.

Our own additions, since pairs are not independent as genes are, and there are few of them:

* d0 + d is at most the degrees of freedom of a design with seeds as blocks, (methods - 1)(seeds - 1) of each board,
  and d0 at most 20. Variances of few seeds look more alike than they are, and with ten seeds of equal spread the
  share of boards with a false claim, 4.8 % without this bound, is then 4.1 % (20,000 simulated boards).
* The variance of log s^2 that d0 is fitted to is taken larger by a factor 1 + 18 / r^2 (twice as much at n = 2),
  with r the number of independent differences: with few methods or two seeds d0 is poorly known, and too large a d0
  makes false claims. The factor was chosen by simulation.
* A row with a collapsed cell is a mixture of two laws. Its pairs do not enter the prior and are not shrunk.
* A variance is no smaller than that of the rounding of its scores (accuracies are multiples of 1 / samples).

The error rates and the power are simulated in the tests (``tests/benchmarks/boards/test_verdicts.py``).
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.boards.stats import ALPHA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MARGIN = 0.005  # half a point of accuracy: smaller differences do not matter in practice
MOST_SEEDS = 100  # beyond it, no number of seeds is named
FEWEST = 5  # rows of a board that make a prior
DOUBT = 18.0  # how much less certain the prior is taken to be than it looks; see above
MOST_FREEDOM = 20.0  # of the prior, however alike the variances look; see above
SMALLEST = 1e-5  # of the median variance, as in limma: log s^2 of an exact zero carries no information
Word = Literal["better", "worse", "equal", "undecided", "order only", "no common seed"]
Scores = Mapping[str, Mapping[Hashable, float]]


@dataclass(frozen=True)
class Pairs:
    """The paired differences ``first - second`` of all pairs of one family.

    Attributes:
        first, second: (pairs,) positions of the two rows.
        n: (pairs,) common seeds.
        mean, variance: (pairs,) of the differences; the variance has the divisor n - 1 and is NaN where n < 2.
        alone: (pairs,) whether one of the rows has a collapsed cell, so that the pair keeps its own variance.
        resolution: the smallest step between two scores.
        independent: how many of the differences are independent: one per row but one, where n > 1.
    """

    first: "NDArray[np.intp]"
    second: "NDArray[np.intp]"
    n: "NDArray[np.intp]"
    mean: "Array"
    variance: "Array"
    alone: "NDArray[np.bool_]"
    resolution: float
    independent: int

    @property
    def freedom(self) -> int:
        """Residual degrees of freedom of a design with seeds as blocks, (rows - 1)(seeds - 1)."""
        return self.independent * max(int(self.n[self.shrunk].max(initial=1)) - 1, 0)

    @property
    def shrunk(self) -> "NDArray[np.bool_]":
        """(pairs,) which pairs have a variance that the prior is fitted to and shrinks."""
        return (self.n > 1) & ~self.alone


def pairs_of(
    table: "Array", collapsed: "NDArray[np.bool_] | None" = None, only: Sequence[tuple[int, int]] | None = None
) -> Pairs:
    """All pairs of the rows of ``table``, (rows, seeds), NaN where a row lacks a seed.

    Args:
        table: the scores.
        collapsed: (rows,) whether a cell of the row collapsed.
        only: these pairs of positions in place of all.
    """
    import numpy as np

    first, second = np.triu_indices(len(table), 1)
    if only is not None:
        first, second = np.array(only, dtype=np.intp).reshape(len(only), 2).T
    differences = table[first] - table[second]
    known = ~np.isnan(differences)
    n = known.sum(axis=1)
    filled = np.where(known, differences, 0.0)
    mean = np.where(n > 0, filled.sum(axis=1) / np.maximum(n, 1), np.nan)
    squares = (np.where(known, filled - mean[:, None], 0.0) ** 2).sum(axis=1)
    variance = np.where(n > 1, squares / np.maximum(n - 1, 1), np.nan)
    values = np.unique(table[~np.isnan(table)])
    steps = np.diff(values)
    steps = steps[steps > 1e-6 * max(np.abs(values).max(initial=0.0), 1e-300)]  # records round to seven digits
    alone = np.zeros(len(n), dtype=bool) if collapsed is None else collapsed[first] | collapsed[second]
    used = (n > 1) & ~alone
    independent = max(len(np.unique([first[used], second[used]])) - 1, 0)
    return Pairs(first, second, n, mean, variance, alone, float(steps.min(initial=np.inf)), independent)


@dataclass(frozen=True)
class Prior:
    """What other pairs tell us about a variance: scaled inverse chi-square with ``freedom`` degrees of freedom.

    ``freedom`` 0 says nothing: the test is then Student's paired t. ``smallest`` is the variance of rounding.
    """

    variance: float
    freedom: float
    smallest: float = 0.0


def prior_of(families: Sequence[Pairs]) -> Prior:
    """The prior of the variances of all pairs of ``families`` (the boards of one network).

    Boards of fewer than ``FEWEST`` rows are left out: pairs of so few rows are too similar to show their spread.
    """
    import numpy as np
    from scipy.special import digamma, polygamma

    steps = [pairs.resolution for pairs in families if math.isfinite(pairs.resolution)]
    smallest = min(steps, default=0.0) ** 2 / 6  # of a difference of two numbers rounded to one step
    variances = np.concatenate([pairs.variance[pairs.shrunk] for pairs in families] or [np.zeros(0)])
    freedom = np.concatenate([pairs.n[pairs.shrunk] - 1.0 for pairs in families] or [np.zeros(0)])
    independent = max((pairs.independent for pairs in families), default=0)
    if independent + 1 < FEWEST or not variances.any():
        return Prior(0.0, 0.0, smallest)
    variances = np.maximum(variances, max(smallest, SMALLEST * float(np.median(variances[variances > 0]))))
    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    doubt = 1 + DOUBT * max(1.0, 2 / float(freedom.mean())) / independent**2
    spread = float(logs.var(ddof=1)) * doubt - float(polygamma(1, freedom / 2).mean())
    most = min(max(sum(pairs.freedom for pairs in families) - float(freedom.mean()), 0.0), MOST_FREEDOM)
    own = min(2 * _inverse_trigamma(spread), most) if spread > 0 else most
    if own <= 0:
        return Prior(0.0, 0.0, smallest)
    centre = float(logs.mean()) + float(digamma(own / 2)) - math.log(own / 2)
    return Prior(math.exp(centre), own, smallest)


def _inverse_trigamma(value: float) -> float:
    """The y with trigamma(y) = value > 0, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y


@dataclass(frozen=True)
class Tested:
    """The tests of all pairs: p of "no difference" and of "differs by the margin or more", and what was shrunk."""

    variance: "Array"  # (pairs,) moderated
    freedom: "Array"  # (pairs,) of t
    differs: "Array"  # (pairs,) two-sided p; 1 where not testable
    inside: "Array"  # (pairs,) p of the two one-sided tests


def moderated(pairs: Pairs, prior: Prior, margin: float | None = None) -> Tested:
    """Moderated t tests of ``pairs``; p is 1 where two rows have less than two seeds in common.

    Where nothing is shrunk and the differences do not vary, Student's t is infinite by chance (accuracies are multiples
    of 1 / samples); the sign test's 2^(1 - n) is then the least p.
    """
    import numpy as np
    from scipy.special import stdtr

    known = np.where(pairs.alone, 0.0, prior.freedom)
    own = np.maximum(pairs.n - 1.0, 1.0)
    seen = np.where(pairs.n > 1, pairs.variance, 0.0)
    variance = (known * prior.variance + own * np.maximum(seen, prior.smallest)) / (known + own)
    tested = (pairs.n > 1) & (variance > 0)
    error = np.sqrt(np.where(tested, variance, 1.0) / np.maximum(pairs.n, 1))
    size = np.abs(np.where(tested, pairs.mean, 0.0))
    least = np.where((known == 0) & (seen <= prior.smallest), 2.0**-own, 0.0)
    differs = np.where(tested, np.maximum(2 * stdtr(known + own, -size / error), least), 1.0)
    inside = np.ones(len(size))
    if margin is not None:
        inside = np.where(tested, np.maximum(stdtr(known + own, -(margin - size) / error), least), 1.0)
    return Tested(variance, known + own, differs, inside)


def claimed(tested: Tested) -> "tuple[Array, Array]":
    """Holm's adjusted p of every pair, and whether its claim would be "equal" (1) or "better" (0).

    A pair makes one claim, that with the smaller p: of "they do not differ" and "they differ by the margin or more" at
    most one is true, so one step of Holm's procedure per pair is enough.
    """
    import numpy as np

    p = np.minimum(tested.differs, tested.inside)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted, (tested.inside < tested.differs).astype(float)


def seeds_needed(pairs: Pairs, prior: Prior, margin: float | None = None) -> list[int | None]:
    """How many seeds would decide each pair, were its mean and variance those that are seen.

    The first Holm level, ALPHA / pairs, is asked for. None means more than ``MOST_SEEDS``, or no spread to judge from.
    """
    import numpy as np
    from scipy.special import stdtrit

    tested = moderated(pairs, prior, margin)
    seeds = np.arange(2, MOST_SEEDS + 1)
    error = np.sqrt(tested.variance[:, None] / seeds)
    size = np.abs(np.nan_to_num(pairs.mean))[:, None]
    level = ALPHA / max(len(pairs.n), 1)
    enough = np.zeros(error.shape, dtype=bool)
    for known, members in ((prior.freedom, ~pairs.alone), (0.0, pairs.alone)):
        two_sided, one_sided = (stdtrit(known + seeds - 1.0, 1 - tail) for tail in (level / 2, level))
        found = size >= two_sided * error
        if margin is not None:
            found |= margin - size >= one_sided * error
        enough |= found & members[:, None]
    enough &= ((tested.variance > 0) & (pairs.n > 0))[:, None]
    return [int(seeds[row.argmax()]) if row.any() else None for row in enough]


@dataclass(frozen=True)
class Verdict:
    """What a board says of two methods.

    Attributes:
        n: common seeds.
        difference: mean of first - second over them, in the unit of the metric; None without a common seed.
        p: the p-value of the claim after Holm's correction over the family's pairs; None where nothing could be tested.
        word: "better" means that the first is, whichever way the metric counts.
        seeds: how many seeds would decide it at the spread seen; None where it is decided, or where that is not known.
    """

    n: int
    difference: float | None
    p: float | None
    word: Word
    seeds: int | None = None


@dataclass(frozen=True)
class Standing:
    """Where a method stands among the others of its family.

    Its place is ``first`` to ``last``: ``first`` is one more than the number of better methods, ``last`` the number
    of methods less the number of worse ones.
    """

    first: int
    last: int
    better_than: int
    equal_to: int
    undecided: int

    @property
    def ranked(self) -> bool:
        """Whether at least one pair with it is decided."""
        return bool(self.better_than or self.equal_to or self.first > 1)


@dataclass(frozen=True)
class Verdicts:
    """All verdicts of one family of methods (the node methods of a board, say), by pair in the order of ``names``."""

    names: tuple[str, ...]
    pairs: Mapping[tuple[str, str], Verdict]

    def of(self, first: str, second: str) -> Verdict:
        """The verdict on ``first`` against ``second``, in whichever order they were compared."""
        if (first, second) in self.pairs:
            return self.pairs[first, second]
        found = self.pairs[second, first]
        turned: dict[Word, Word] = {"better": "worse", "worse": "better"}
        difference = None if found.difference is None else -found.difference
        return Verdict(found.n, difference, found.p, turned.get(found.word, found.word), found.seeds)

    def standings(self) -> dict[str, Standing]:
        """The place of every method."""
        counts = {name: {"better": 0, "worse": 0, "equal": 0, "undecided": 0} for name in self.names}
        for (first, second), found in self.pairs.items():
            word = found.word if found.word in ("better", "worse", "equal") else "undecided"
            counts[first][word] += 1
            counts[second][{"better": "worse", "worse": "better"}.get(word, word)] += 1
        size = len(self.names)
        return {
            name: Standing(1 + own["worse"], size - own["better"], own["better"], own["equal"], own["undecided"])
            for name, own in counts.items()
        }

    @property
    def counts(self) -> dict[Word, int]:
        """How many pairs have each word; "better" and "worse" count together as "better"."""
        found: dict[Word, int] = {"better": 0, "equal": 0, "undecided": 0, "order only": 0, "no common seed": 0}
        for verdict in self.pairs.values():
            found["better" if verdict.word == "worse" else verdict.word] += 1
        return found

    @property
    def seeds(self) -> list[int | None]:
        """For every undecided pair, how many seeds would decide it."""
        return [verdict.seeds for verdict in self.pairs.values() if verdict.word in ("undecided", "order only")]


def table_of(scores: Scores) -> "Array":
    """``scores`` as (rows, seeds), NaN where a method lacks a seed."""
    import numpy as np

    units = list(dict.fromkeys(unit for own in scores.values() for unit in own))
    rows = [[own.get(unit, math.nan) for unit in units] for own in scores.values()]
    return np.array(rows, dtype=float).reshape(len(rows), len(units))


def family(scores: Scores, collapsed: Collection[str] = (), only: Sequence[tuple[str, str]] | None = None) -> Pairs:
    """The pairs of the methods in ``scores`` (by method, then by seed); ``collapsed`` names those with such a cell."""
    import numpy as np

    marks = np.array([name in collapsed for name in scores], dtype=bool)
    place = {name: number for number, name in enumerate(scores)}
    chosen = None if only is None else [(place[first], place[second]) for first, second in only]
    return pairs_of(table_of(scores), marks, chosen)


def verdicts(
    scores: Scores,
    collapsed: Collection[str] = (),
    prior: Prior | None = None,
    margin: float | None = None,
    larger_is_better: bool = True,
    only: Sequence[tuple[str, str]] | None = None,
) -> Verdicts:
    """The verdict on every pair of one family.

    Args:
        scores: for each method its score by unit of comparison (seed, or task and seed).
        collapsed: the methods with a collapsed cell among their scores.
        prior: the prior of the variances (:func:`prior_of` the network's boards); None fits it to these scores alone.
        margin: differences within it count as equal, in the unit of the scores; None never claims equality.
        larger_is_better: whether a larger score wins.
        only: these pairs of methods in place of all.
    """
    pairs = family(scores, collapsed, only)
    prior = prior_of([pairs]) if prior is None else prior
    tested = moderated(pairs, prior, margin)
    adjusted, equal = claimed(tested)
    needed = seeds_needed(pairs, prior, margin)
    names = tuple(scores)
    found = {}
    for place, (first, second) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        n, mean, p = int(pairs.n[place]), float(pairs.mean[place]), float(adjusted[place])
        word: Word = "undecided"
        if n < 2:
            word = "order only" if n else "no common seed"
        elif p < ALPHA:
            word = "equal" if equal[place] else "better" if (mean > 0) == larger_is_better else "worse"
        decided = word in ("better", "worse", "equal")
        difference, known = None if math.isnan(mean) else mean, p if n > 1 else None
        found[names[first], names[second]] = Verdict(n, difference, known, word, None if decided else needed[place])
    return Verdicts(names, found)
