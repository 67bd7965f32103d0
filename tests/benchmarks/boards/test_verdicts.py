import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.boards.stats import holm
from benchmarks.boards.verdicts import Prior, claimed, family, moderated, pairs_of, prior_of, verdicts

MEANS = np.array([90, 90, 90, 88, 88, 80, 70, 60, 40, 40.0])
CHANCE = 11.35
MARGIN = 0.5
NO_PRIOR = Prior(0.0, 0.0)


def drawn(kind, n, rng):
    """(10, n) accuracies in points and (10, n) whether the cell collapsed; seeds are blocks."""
    spreads = {
        "equal": np.full(10, 0.5),
        "unequal": np.geomspace(0.2, 10, 10),
        "unequal, shuffled": np.geomspace(0.2, 10, 10)[[3, 0, 7, 1, 5, 2, 8, 4, 6, 9]],
        "collapsed": np.geomspace(0.2, 4, 10),
    }[kind]
    table = MEANS[:, None] + spreads[:, None] * rng.normal(size=(10, n)) + rng.normal(size=n)
    chance = np.array([0, 0, 0, 0, 0, 0, 0.1, 0.1, 0.3, 0.3]) * (kind == "collapsed")
    hit = rng.random((10, n)) < chance[:, None]
    return np.where(hit, CHANCE, table), hit


def simulated(kind, n, prior=None, repetitions=1000):
    """The share of repetitions with a false claim of any kind, and the share of true differences that is found."""
    rng = np.random.default_rng([17, n])
    chance = np.array([0, 0, 0, 0, 0, 0, 0.1, 0.1, 0.3, 0.3]) * (kind == "collapsed")
    means = (1 - chance) * MEANS + chance * CHANCE
    first, second = np.triu_indices(10, 1)
    gap, sign = np.abs(means[first] - means[second]), np.sign(means[first] - means[second])
    false, power = 0, 0.0
    for _ in range(repetitions):
        table, hit = drawn(kind, n, rng)
        table[hit.all(axis=1)] = np.nan  # a method without a network that works is not compared
        pairs = pairs_of(table, hit.any(axis=1))
        tested = moderated(pairs, prior_of([pairs]) if prior is None else prior, MARGIN)
        p, equal = claimed(tested)
        better, same = (p < 0.05) & (equal == 0), (p < 0.05) & (equal == 1)
        false += bool((better & (np.sign(np.nan_to_num(pairs.mean)) != sign)).any() or (same & (gap >= MARGIN)).any())
        power += better[gap > 0].mean() / repetitions
    return false / repetitions, power


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "unequal", "unequal, shuffled", "collapsed"])
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_at_most_one_board_in_twenty_has_a_false_claim(kind, n, long):
    """The share itself, and with ``--long`` (20,000 boards, a minute each) the upper end of its 95 % interval."""
    repetitions = 20_000 if long else 2_000
    false, _ = simulated(kind, n, repetitions=repetitions)
    assert false + long * 1.96 * math.sqrt(false * (1 - false) / repetitions) <= 0.05


@pytest.mark.slow
def test_three_seeds_with_unequal_spreads_find_more_than_half_where_the_paired_t_finds_little():
    _, power = simulated("unequal", 3, repetitions=3000)
    _, paired = simulated("unequal", 3, NO_PRIOR)
    assert power >= 0.55 and paired <= 0.2


@pytest.mark.slow
def test_two_seeds_with_equal_spreads_find_most_where_the_paired_t_finds_next_to_nothing():
    _, power = simulated("equal", 2)
    _, paired = simulated("equal", 2, NO_PRIOR)
    assert power >= 0.8 and paired <= 0.1


@pytest.mark.slow
def test_the_simulation_can_fail():
    """One variance for all pairs, the design that a blocked analysis of variance assumes, breaks the promise."""
    rng = np.random.default_rng(3)
    pooled = Prior(float(np.mean([pairs_of(drawn("unequal", 3, rng)[0]).variance.mean() for _ in range(50)])), 1e6)
    false, _ = simulated("unequal", 3, pooled)
    assert false > 0.1


def test_however_alike_variances_look_the_prior_is_worth_twenty_degrees_of_freedom_at_most():
    alike = pairs_of(np.random.default_rng(2).normal(size=(12, 30)))
    assert prior_of([alike]).freedom == 20


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=2, max_size=4))
def test_without_a_prior_it_is_scipys_paired_t(values):
    table = np.array(values).round(3)
    pairs = pairs_of(table)
    assume((pairs.variance > 1e-4).all())
    tested = moderated(pairs, NO_PRIOR)
    for place, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        assert tested.differs[place] == pytest.approx(scipy.stats.ttest_rel(table[a], table[b]).pvalue, rel=1e-6)


def test_equality_is_the_two_one_sided_tests_of_statsmodels():
    weights = pytest.importorskip("statsmodels.stats.weightstats")
    table = np.random.default_rng(4).normal(90, 0.2, size=(2, 12))
    tested = moderated(pairs_of(table), NO_PRIOR, MARGIN)
    assert tested.inside[0] == pytest.approx(weights.ttost_paired(table[0], table[1], -MARGIN, MARGIN)[0], rel=1e-9)


def test_a_worked_example_of_shrinkage():
    # Differences 1, 2, 3: mean 2, variance 1, d = 2. Prior variance 4 with d0 = 4: (4 * 4 + 2 * 1) / 6 = 3.
    pairs = pairs_of(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    tested = moderated(pairs, Prior(4.0, 4.0))
    assert tested.variance[0] == pytest.approx(3) and tested.freedom[0] == 6
    t = 2 / math.sqrt(3 / 3)
    assert tested.differs[0] == pytest.approx(2 * scipy.stats.t.sf(t, 6))


def test_the_prior_is_recovered_from_many_pairs():
    """Variances drawn from the model, s^2 ~ s0^2 d0 / chi2(d0) times chi2(d) / d, give d0 and s0 back."""
    rng = np.random.default_rng(5)
    pairs = pairs_of(rng.normal(size=(200, 4)))  # for its form
    truth = 2.0 * 6 / rng.chisquare(6, size=len(pairs.n))
    variance = truth * rng.chisquare(3, size=len(pairs.n)) / 3
    drawn_ = type(pairs)(**{**vars(pairs), "variance": variance})
    found = prior_of([drawn_])
    assert found.freedom == pytest.approx(6, rel=0.1) and found.variance == pytest.approx(2, rel=0.05)


def test_few_methods_make_no_prior_and_collapsed_ones_are_not_part_of_it():
    rng = np.random.default_rng(6)
    assert prior_of([pairs_of(rng.normal(size=(4, 5)))]).freedom == 0
    table = rng.normal(size=(8, 5))
    worse = np.vstack([table, [[0, 100, 0, 100, 0]]])
    collapsed = np.array([False] * 8 + [True])
    expected = prior_of([pairs_of(table)])
    with_it, blind = prior_of([pairs_of(worse, collapsed)]), prior_of([pairs_of(worse)])
    assert (with_it.variance, with_it.freedom) == (expected.variance, expected.freedom)
    assert blind.freedom < expected.freedom
    assert prior_of([]).freedom == 0


def test_one_claim_for_a_pair_after_holm():
    tested = moderated(pairs_of(np.random.default_rng(7).normal(size=(5, 6))), NO_PRIOR, 0.7)
    adjusted, equal = claimed(tested)
    assert adjusted == pytest.approx(holm(np.minimum(tested.differs, tested.inside).tolist()))
    assert (equal == (tested.inside < tested.differs)).all()


def test_words():
    rng = np.random.default_rng(8)
    noise = rng.normal(0, 0.001, size=(4, 8))
    scores = {name: dict(enumerate(0.9 + noise[place])) for place, name in enumerate("abc")}
    scores["low"] = dict(enumerate(0.5 + noise[3]))
    scores["once"] = {0: 0.7}
    scores["elsewhere"] = {99: 0.99}
    found = verdicts(scores, margin=0.005)
    assert found.of("a", "low").word == "better" and found.of("low", "a").word == "worse"
    assert found.of("a", "b").word == found.of("b", "a").word == "equal"
    assert found.of("a", "once").word == "order only" and found.of("a", "once").p is None
    assert found.of("a", "elsewhere").word == "no common seed" and found.of("a", "elsewhere").difference is None
    assert verdicts(scores).of("a", "b").word == "undecided", "without a margin nothing is equal"
    assert verdicts(scores, larger_is_better=False).of("a", "low").word == "worse"
    places = {name: (own.first, own.last) for name, own in found.standings().items()}
    assert places["a"] == (1, 5) and places["low"] == (4, 6) and places["once"] == (1, 6)
    assert not found.standings()["once"].ranked and found.standings()["a"].ranked
    assert found.counts == {"better": 3, "equal": 3, "undecided": 0, "order only": 4, "no common seed": 5}


def test_the_seeds_that_are_named_would_decide():
    """With as many seeds, and mean and variance as seen, the first Holm level is passed; with one less it is not."""
    rng = np.random.default_rng(9)
    scores = {str(place): dict(enumerate(0.9 + 0.003 * place + rng.normal(0, 0.01, size=3))) for place in range(6)}
    pairs = family(scores)
    prior = prior_of([pairs])
    found = verdicts(scores)
    variance = moderated(pairs, prior).variance
    known = 0
    for place, verdict in enumerate(found.pairs.values()):
        if verdict.seeds is None:
            continue
        known += 1
        for seeds, passes in ((verdict.seeds, True), (verdict.seeds - 1, False)):
            t = abs(verdict.difference) / math.sqrt(variance[place] / seeds)
            p = 2 * scipy.stats.t.sf(t, prior.freedom + seeds - 1)
            assert (p <= 0.05 / 15) == passes
    assert known > 3


def test_equal_differences_on_every_seed_are_no_proof():
    found = verdicts({"a": {0: 0.9, 1: 0.9, 2: 0.9}, "b": {0: 0.8, 1: 0.8, 2: 0.8}})
    assert found.of("a", "b").word == "undecided" and found.of("a", "b").p == 0.25


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=7),
    st.randoms(use_true_random=False),
)
def test_verdicts_do_not_depend_on_the_order_of_methods_and_places_hold_them(values, random):
    scores = {str(name): {seed: value / 50 for seed, value in enumerate(row)} for name, row in enumerate(values)}
    found = verdicts(scores, margin=0.05)
    shuffled = list(scores)
    random.shuffle(shuffled)
    again = verdicts({name: scores[name] for name in shuffled}, margin=0.05)
    for first, second in found.pairs:
        assert again.of(first, second).word == found.of(first, second).word
        assert again.of(first, second).p == pytest.approx(found.of(first, second).p)
    for name, own in found.standings().items():
        assert 1 <= own.first <= own.last <= len(scores)
        beaten = sum(found.of(name, other).word == "better" for other in scores if other != name)
        assert own.last == len(scores) - beaten
