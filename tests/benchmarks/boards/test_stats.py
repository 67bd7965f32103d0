from unittest.mock import patch

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.boards.stats import holm, paired_t, spread

numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


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
    assert (constant.n, constant.difference, constant.test) == (3, pytest.approx(0.1), "sign")
    assert constant.p == 0.25, "three equal differences of accuracies are no proof"
    assert constant.p == pytest.approx(2 * scipy.stats.binomtest(3, 3).pvalue / 2)


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
