"""The theory board: orders and factors of known points, and the page on theories beside the stored numbers."""

import math
import re

import pandas as pd
import pytest

from benchmarks.boards.theory import Point
from benchmarks.reproductions import module_of, stored
from benchmarks.reproductions.theories._ranking import calibrated, ranked
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

board = module_of("theory_board")


def point(
    predicted, measured, theory="predicted loss increase (obd)", layer=None, budget="compression 4", seed=0, **own
):
    where = {"dataset": "digits", "model": "mlp", "method": "obd", "variant": "v"} | own
    unit, outcome = ("loss", "loss increase") if layer is None else (None, "measured")
    return Point(
        theory, unit, outcome, layer, predicted, measured, f"{budget}-{seed}", budget=budget, seed=seed, **where
    )


def cells(factor, spread, seeds=5, **own):
    """Measured is ``factor`` times the predicted increase, or ``spread`` times more or less than that, in turn."""
    return [point(0.1, 0.1 * factor * spread ** ((seed % 3) - 1), seed=seed, **own) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        (cells(1.1, 1.1), "calibrated"),
        (cells(50, 1.2), "predicts too little"),
        (cells(0.02, 1.2), "predicts too much"),
        (cells(1.3, 4), "undecided"),
        (cells(50, 1.2, seeds=2), "undecided"),
    ],
)
def test_a_cost_is_calibrated_or_off_by_a_factor(points, verdict):
    [found] = calibrated(points)
    assert found.size == verdict and found.n == len(points)


def test_the_factor_is_the_geometric_mean_and_its_interval_is_of_the_logarithm():
    [found] = calibrated([*cells(10, 2, seeds=3), point(-0.1, 0.1, seed=7)])
    assert found.ratio == pytest.approx(10) and (found.n, found.left_out) == (3, 1)
    half = 4.302652729911275 * math.log(2) / math.sqrt(3)  # Student's t with two degrees of freedom, deviation log 2
    assert (found.low, found.high) == (pytest.approx(10 * math.exp(-half)), pytest.approx(10 * math.exp(half)))


def layers(order, seeds=4):
    theory = "lq bound on the output error (lq)"
    return [
        point(float(place), float(order[place]), theory, f"fc{place}", seed=seed)
        for seed in range(seeds)
        for place in range(len(order))
    ]


@pytest.mark.parametrize(("order", "word"), [([1, 2, 3, 4], "yes"), ([4, 3, 2, 1], "the other way round")])
def test_layers_are_ordered_or_not(order, word):
    [found] = ranked(layers(order))
    assert (found.question, found.theory, found.orders, found.n) == (
        "layers of a network",
        "lq bound on the output error",
        word,
        4,
    )


def test_two_groups_decide_nothing():
    assert list(ranked(layers([1, 2, 3], seeds=2))) == []


def test_budgets_of_different_methods_are_not_compared_by_their_own_costs():
    """Each method's cost orders its three budgets; between the two methods it is upside down."""
    points = [
        point(
            scale * place, -scale + 0.1 * place, f"predicted loss increase ({name})", budget=f"keep {place}", seed=seed
        )
        for name, scale in (("obd", 1.0), ("obs", 100.0))
        for place in (1, 2, 3)
        for seed in range(4)
    ]
    assert {(each.theory, each.question, each.rho) for each in ranked(points)} == {
        ("predicted loss increase (obd)", "budgets of a method", 1.0),
        ("predicted loss increase (obs)", "budgets of a method", 1.0),
    }


@pytest.mark.slow
def test_the_board_of_known_points_is_drawn_and_judged(drawn):
    networks = pd.DataFrame(
        {"task": "digits", "method": ["magnitude", "lq"], "theory": "PQ index", "n": 48}
        | {"spearman": [0.5, -0.1], "low": [0.2, -0.4], "high": [0.7, 0.2]}
    )
    points = [*cells(50, 1.2), *cells(20, 1.2, budget="compression 16"), *layers([1, 2, 3])]
    outcome = board.finish(points, networks)
    seen = {claim.text: claim.seen for claim in outcome.claims}
    assert seen == {
        "lq bound on the output error orders layers of a network by their output error": True,
        "PQ index orders networks of a structure by their accuracy drop": None,
        "the predicted loss increase (obd) is calibrated within a factor of 2": False,
    }
    assert len(drawn("theory_board", outcome)) == 6
    with_others = board.finish(points, networks, outcome.table.head(1))
    assert len(with_others.table) == len(outcome.table) + 1 and "theory_points" in with_others.setting


def test_records_without_predictions_are_refused():
    with pytest.raises(BadInput, match="no record holds predictions"):
        board.finish([])


@pytest.mark.slow
def test_every_theory_in_its_quick_version(workplace, drawn):
    outcome = module_of("theory_points").run(workplace)
    theories = set(outcome.table["theory"])
    assert {"OBD", "CBS objective", "degrees of freedom per kept node"} <= theories, theories
    assert any("DPP" in theory for theory in theories), theories
    drawn("theory_points", outcome)


def span(values):
    return f"{board.two(min(values))} to {board.two(max(values))}"


def test_the_page_on_theories_says_what_the_board_says():
    outcome = stored.read(REPOSITORY / "results/reproductions/theory_board")
    text = " ".join((REPOSITORY / "docs/theory.md").read_text(encoding="utf-8").split())
    factors, table = outcome.numbers["factors"], outcome.table
    counts = factors["verdict"].value_counts()
    assert f"Of {len(factors)} cases" in text and "calibrated" not in counts
    assert f"In {counts['predicts too little']} the loss rises more" in text
    assert counts["predicts too much"] == 3 and f"The other {counts['undecided']} cases are undecided" in text
    little = factors[factors["verdict"] == "predicts too little"]
    for method in ("kron_obs", "kron_obd", "obd", "obs", "mfac"):
        own = little[little["theory"] == f"predicted loss increase ({method})"]["ratio"]
        shown = span(own).replace("9.2", "9")
        assert re.search(f"`{method}` (being off )?by {shown}", text), (method, shown)
    wood = factors[factors["theory"] == "predicted loss increase (wood_taylor)"]
    much, few = wood[wood["verdict"] == "predicts too much"], wood[wood["verdict"] == "predicts too little"]
    assert set(much["task"]) <= {"digits/mlp", "mnist/lenet300"} and "in three cases on perceptrons" in text
    assert f"predicts {1 / much['ratio'].max():.0f} to {1 / much['ratio'].min():.0f} times too much" in text
    assert [*few["task"], *few["budget"]] == ["mnist/lenet5", "speedup 8"]
    assert f"{board.two(few['ratio'].iloc[0])} times too little on LeNet-5 at a speed-up of 8" in text
    bounds = table[table["question"] == "layers of a network"].set_index("theory")
    tail = bounds.loc["lq bound on the removed weights"]
    assert f"rho {tail['rho']:.2f} [{tail['low']:.2f}, {tail['high']:.2f}] over {tail['n']} networks" in text
    assert f"so less well (rho {bounds.loc['lq bound on the output error', 'rho']:.2f})" in text
    networks = table[table["question"] == "networks of a structure"]
    words = networks["orders"].value_counts()
    decided = words["yes"] + words["the other way round"]
    assert f"Of {len(networks)} lines" in text and words["the other way round"] == 1
    assert f"{decided} are decided, one of them the wrong way round" in text
    assert networks.groupby("theory")["orders"].nunique().min() > 1 and "on all four" in text
