import math
from unittest.mock import patch

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.boards.stats import friedman, holm, paired_t, signed_rank, spread

numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


def test_friedman_by_hand():
    # Ranks per task: 123, 132, 123, 213; sums 5, 8, 11; chi-square = 12/(4*3*4) (25+64+121) - 3*4*4 = 4.5.
    result = friedman({"x": [9, 9, 9, 5], "y": [8, 1, 8, 9], "z": [7, 5, 7, 1]})
    assert result.mean_ranks == {"x": 1.25, "y": 2.0, "z": 2.75} and result.tasks == 4
    assert result.statistic == pytest.approx(4.5) and result.p == pytest.approx(math.exp(-2.25))
    assert result.groups == [["x", "y", "z"]]


@pytest.mark.parametrize(
    ("methods", "quantile"), [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (10, 3.164)]
)
def test_critical_difference_has_the_tabulated_quantiles(methods, quantile):
    scores = {str(method): [float(method), float(-method)] for method in range(methods)}
    found = friedman(scores).critical_difference
    assert found == pytest.approx(quantile * math.sqrt(methods * (methods + 1) / 12), rel=4e-4)


def test_friedman_agrees_with_scipy_and_nemenyi_with_scikit_posthocs():
    posthocs = pytest.importorskip("scikit_posthocs")
    rng = np.random.default_rng(0)
    scores = {name: (rng.normal(size=9) + 2 * shift).tolist() for shift, name in enumerate("abcde")}
    result = friedman(scores)
    assert (result.statistic, result.p) == pytest.approx(tuple(scipy.stats.friedmanchisquare(*scores.values())))
    table = posthocs.posthoc_nemenyi_friedman(-np.array(list(scores.values())).T)
    for (a, b), p in result.nemenyi.items():
        assert p == pytest.approx(table.iloc["abcde".index(a), "abcde".index(b)], abs=1e-6)
    assert next(iter(result.mean_ranks)) == "e"
    assert next(iter(friedman(scores, larger_is_better=False).mean_ranks)) == "a"


def test_groups_are_the_runs_inside_the_critical_difference():
    result = friedman({"a": [9.0] * 20, "b": [8.0] * 20, "c": [1.0, 0.0] * 10, "d": [0.0, 1.0] * 10})
    assert result.critical_difference == pytest.approx(2.569 * math.sqrt(20 / 120), abs=2e-3)
    assert result.groups == [["a", "b"], ["c", "d"]]


def test_friedman_needs_methods_and_tasks():
    assert friedman({"a": [1, 2], "b": [2, 1]}) is None
    assert friedman({"a": [1], "b": [2], "c": [3]}) is None
    assert friedman({}) is None
    same = friedman({"a": [1, 1], "b": [1, 1], "c": [1, 1]})
    assert (same.statistic, same.p) == (0.0, 1.0) and set(same.mean_ranks.values()) == {2.0}


@settings(deadline=None, max_examples=60)
@given(st.lists(numbers, min_size=2, max_size=12))
def test_paired_t_is_scipys(differences):
    assume(np.std(differences) > 1e-6)
    expected = scipy.stats.ttest_rel(differences, np.zeros(len(differences)))
    found = paired_t(differences)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12) and found.test == "t"
    assert found.difference == pytest.approx(np.mean(differences))


def test_pairs_without_spread_or_number():
    assert paired_t([0.1]).p is None and paired_t([]).p is None and paired_t([]).difference is None
    assert paired_t([0.0, 0.0, 0.0]).p == 1.0
    constant = paired_t([0.1, 0.1, 0.1])
    assert constant.p == 0.25, "three equal differences of accuracies are no proof"
    assert constant.p == pytest.approx(2 * scipy.stats.binomtest(3, 3).pvalue / 2)


def test_signed_rank_is_scipys():
    differences = [1.5, -0.2, 0.7, 2.2, 0.9, -0.1, 3.1]
    assert signed_rank(differences).p == scipy.stats.wilcoxon(differences).pvalue
    assert signed_rank([0.0, 0.0]).p == 1.0 and signed_rank([1.0]).p is None


def test_holm_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    with patch("gc.collect"):  # it calls that each time, a tenth of a second
        expected = multitest.multipletests(p_values, method="holm")[1].tolist()
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


def test_interval_is_students():
    values = [0.9, 0.92, 0.97]
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    summary = spread(values)
    assert (summary.mean - summary.half_width, summary.mean + summary.half_width) == pytest.approx((low, high))
    assert spread([1.0]).half_width is None
