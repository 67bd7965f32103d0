"""The reproductions of spectral pruning: how claims are decided, and each of them in its quick version."""

import os

import pandas as pd
import pytest

from benchmarks.reproductions import module_of
from benchmarks.reproductions.spectral._spectral import compared, equal, larger, summary

pytestmark = pytest.mark.slow

ON_DIGITS = (
    "selection_x_compensation",
    "selection_x_repair_x_rate",
    "spectral_lambda",
    "spectral_samples",
    "spectral_theta",
)
ON_MNIST = ("spectral_nn3", "spectral_rnn", "spectral_bias_variance")


def table(first, second):
    """Accuracies at theta 0.3 and at theta 0, one seed per pair."""
    rows = [
        {"network": "a", "keep": 0.1, "seed": seed, "theta": theta, "accuracy": value, "dense": 1.0}
        for theta, values in ((0.3, first), (0.0, second))
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_claim_is_seen_not_seen_or_undecided():
    clear = compared(table([0.9, 0.91, 0.92], [0.7, 0.72, 0.71]), "theta", 0.3, 0.0)
    assert clear.n == 3 and clear.difference == pytest.approx(0.2)
    assert larger("", clear).seen is True
    assert larger("", clear, least=0.5).seen is False
    assert larger("", compared(table([0.7, 0.72, 0.71], [0.9, 0.91, 0.92]), "theta", 0.3, 0.0)).seen is False
    assert larger("", compared(table([0.9, 0.7, 0.8], [0.7, 0.9, 0.8]), "theta", 0.3, 0.0)).seen is None
    assert larger("", compared(table([0.9], [0.7]), "theta", 0.3, 0.0)).seen is None
    assert larger("", compared(table([0.9], [0.7]), "theta", 0.3, 0.7)).seen is None
    assert equal("", clear, 0.01).seen is False and equal("", clear, 0.3).seen is True


def test_missing_accuracies_leave_their_pair_out():
    found = compared(table([0.9, None, 0.92], [0.7, 0.72, 0.71]), "theta", 0.3, 0.0)
    assert found.n == 2


def test_recurrent_claims_without_a_pair_are_undecided():
    claims = module_of("spectral_rnn").claims_of([])
    assert claims and {(claim.seen, claim.evidence) for claim in claims} == {(None, "no pairs")}
    means = summary(table([0.9, None, 0.92], [0.7, 0.72, 0.71]), ["keep", "theta"]).set_index("theta")
    assert means.loc[0.3, "n"] == 2 and means.loc[0.3, "accuracy"] == pytest.approx(0.91)


@pytest.mark.parametrize("name", [*ON_DIGITS, *ON_MNIST])
def test_quick_version(name, workplace, drawn):
    if name in ON_MNIST and not os.environ.get("SECATEURS_DATA"):
        pytest.skip("needs MNIST below $SECATEURS_DATA")
    outcome = module_of(name).run(workplace)
    assert len(outcome.table) > 1 and outcome.claims and outcome.setting
    assert all(claim.evidence for claim in outcome.claims)
    drawn(name, outcome)
