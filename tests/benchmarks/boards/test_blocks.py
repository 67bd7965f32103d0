"""Methods over networks: against worked examples, SciPy and scikit-posthocs, and where blocks lack methods."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.boards.blocks import averaged, ranked


def by_block(columns):
    return {name: {i: v for i, v in enumerate(own) if v is not None} for name, own in columns.items()}


def test_ranks_by_hand():
    # Ranks per block: 123, 132, 123, 213; sums 5, 8, 11; chi-square = 12/(4*3*4) (25+64+121) - 3*4*4 = 4.5.
    found = ranked(by_block({"x": [9, 9, 9, 5], "y": [8, 1, 8, 9], "z": [7, 5, 7, 1]}))
    assert found.ranks == pytest.approx({"x": 1.25, "y": 2.0, "z": 2.75}) and found.blocks == 4
    assert (found.statistic, found.freedom) == (pytest.approx(4.5), 2) and found.p == pytest.approx(math.exp(-2.25))


def test_skillings_mack_of_the_textbook():
    # Hollander, Wolfe & Chicken, Nonparametric Statistical Methods, example 7.8: speech dysfluencies under three
    # rhythms, one observation missing. SM = 13.28 with 2 degrees of freedom.
    rows = [[3, 5, 15], [1, 3, 18], [5, 4, 21], [2, None, 6], [0, 2, 17], [0, 2, 10], [0, 3, 8], [0, 2, 13]]
    fewer = {n: [None if row[j] is None else -row[j] for row in rows] for j, n in enumerate(["R", "A", "N"])}
    found = ranked(by_block(fewer))
    assert found.statistic == pytest.approx(13.281, abs=5e-4) and found.freedom == 2
    assert list(found.names) == ["R", "A", "N"] and found.found_in == {"R": 8, "A": 7, "N": 8}


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 6), st.integers(2, 9), st.integers(0, 10**6), st.booleans())
def test_complete_blocks_are_friedman_and_nemenyi(methods, blocks, seed, ties):
    posthocs = pytest.importorskip("scikit_posthocs")
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(blocks, methods)) + 0.5 * np.arange(methods)
    table = table.round(0) if ties else table
    names = "abcdef"[:methods]
    found = ranked(by_block({name: table[:, place].tolist() for place, name in enumerate(names)}))
    means = scipy.stats.rankdata(-table, axis=1).mean(axis=0)
    assert [found.ranks[name] for name in names] == pytest.approx(means.tolist()) if not ties else True
    if (table != table[:, :1]).any():
        theirs = scipy.stats.friedmanchisquare(*table.T)
        assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    if not ties:
        p_values = posthocs.posthoc_nemenyi_friedman(-table)
        for (a, b), p in found.adjusted().items():
            assert p == pytest.approx(p_values.iloc[names.index(a), names.index(b)], abs=1e-6)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_balanced_incomplete_blocks_are_durbins():
    posthocs = pytest.importorskip("scikit_posthocs")
    import pandas as pd

    rng = np.random.default_rng(1)
    blocks = ["abc", "abd", "acd", "bcd"] * 2
    cells = [(name, place, float(rng.normal())) for place, own in enumerate(blocks) for name in own]
    scores = {name: {place: value for other, place, value in cells if other == name} for name in "abcd"}
    table = pd.DataFrame(cells, columns=["method", "block", "value"])
    columns = {"y_col": "value", "group_col": "method", "block_col": "block", "block_id_col": "block"}
    p, statistic, _ = posthocs.test_durbin(table, melted=True, **columns)
    found = ranked(scores)
    assert (found.statistic, found.p) == pytest.approx((statistic, p))


def test_a_method_that_wins_wherever_it_is_ranks_first_whatever_it_lacks():
    columns = {name: [float(-place)] * 6 for place, name in enumerate("abcde")}
    columns["a"][2:] = [None] * 4
    found = ranked(by_block(columns))
    assert found.names[0] == "a" and found.found_in == {"a": 2, "b": 6, "c": 6, "d": 6, "e": 6} and found.blocks == 6
    assert found.ranks["b"] < found.ranks["c"] < found.ranks["d"] < found.ranks["e"]


def test_methods_that_hardly_meet_are_not_compared():
    columns = {"a": [3, 3, 3, None], "b": [2, 2, 2, 2], "c": [1, 1, 1, 1], "d": [None, None, 0, 9]}
    p_values = ranked(by_block(columns)).adjusted()
    assert p_values[("a", "d") if ("a", "d") in p_values else ("d", "a")] is None
    assert sum(p is None for p in p_values.values()) == 1


def test_false_claims_are_rare_where_methods_are_alike_and_blocks_lack_some():
    rng = np.random.default_rng(5)
    claims = 0
    for _ in range(200):
        table = rng.normal(size=(7, 8))
        table[rng.random(table.shape) < 0.25] = np.nan
        scores = {
            str(place): {block: float(table[block, place]) for block in range(7) if not np.isnan(table[block, place])}
            for place in range(8)
        }
        found = ranked(scores)
        claims += found is not None and any(p is not None and p < 0.05 for p in found.adjusted().values())
    assert claims <= 16  # 5 % of 200, and two standard deviations


def test_against_one_method_it_is_holm_over_normal_scores():
    columns = {name: [float(-place) + 0.01 * block for block in range(12)] for place, name in enumerate("abcd")}
    found = ranked(by_block(columns))
    error = math.sqrt(4 * 5 / (6 * 12))
    raw = {other: 2 * scipy.stats.norm.sf(gap / error) for other, gap in {"b": 1, "c": 2, "d": 3}.items()}
    expected = {"d": 3 * raw["d"], "c": 2 * raw["c"], "b": raw["b"]}
    assert found.against("a") == pytest.approx(expected)


def test_too_little_to_compare():
    assert ranked({}) is None
    assert ranked(by_block({"a": [1, 2], "b": [2, 1]})) is None
    assert ranked(by_block({"a": [1], "b": [2], "c": [3]})) is None
    same = ranked(by_block({"a": [1, 1], "b": [1, 1], "c": [1, 1]}))
    assert (same.statistic, same.p) == (0.0, 1.0) and set(same.ranks.values()) == {2.0}
    assert all(p == 1.0 for p in same.adjusted().values())


def test_a_mean_over_budgets_is_the_mean_and_a_missing_budget_costs_nothing():
    scores = {"a": {2: 0.9, 4: 0.8, 8: 0.4}, "b": {2: 0.8, 4: 0.7, 8: 0.3}, "c": {2: 0.7, 4: 0.6, 8: 0.2}}
    assert averaged(scores) == pytest.approx({"a": 0.7, "b": 0.6, "c": 0.5})
    only_easy = {**scores, "c": {2: 0.7}}  # a plain mean would put it in front
    assert averaged(only_easy) == pytest.approx({"a": 0.7, "b": 0.6, "c": 0.5})


def test_methods_without_a_common_budget_have_no_common_mean():
    assert averaged({"a": {2: 0.9}, "b": {2: 0.8}, "c": {4: 0.1}}).keys() == {"a", "b"}
    assert averaged({}) == {}
