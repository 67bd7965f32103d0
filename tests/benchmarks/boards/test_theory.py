import math
from dataclasses import replace

import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from sample_records import made

from benchmarks.boards import theory
from benchmarks.leaderboard import main
from benchmarks.records.store import Store
from methods.errors import BadInput

numbers = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=20)


def point(predicted, measured, key="0", layer=None, outcome="measured", unit=None, **fields):
    where = {"dataset": "d", "model": "m", "method": "a", "budget": "keep 0.2", "seed": 0} | fields
    return theory.Point("t", unit, outcome, layer, predicted, measured, key, **where)


@settings(deadline=None, max_examples=60)
@given(numbers)
def test_correlations_are_scipys(pairs):
    x, y = zip(*pairs, strict=True)
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    assert theory.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert theory.kendall(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)


def test_what_does_not_vary_has_no_correlation():
    assert theory.spearman([1, 1, 1], [1, 2, 3]) is None and theory.kendall([1, 2, 3], [1, 1, 1]) is None
    assert theory.spearman([1, 2], [1, 2]) is None


def test_within_is_the_mean_over_groups_and_pooled_is_not():
    # In each cell the prediction orders the layers perfectly, between cells it is upside down.
    rows = [
        point(10 * -cell + layer, 10 * cell + layer, key=str(cell), layer=str(layer))
        for cell in range(6)
        for layer in range(4)
    ]
    inside = theory.within(rows, theory.WITHIN["over layers"])
    assert (inside.value, inside.low, inside.high, inside.groups) == (1.0, 1.0, 1.0, 6)
    whole = theory.pooled(rows)
    assert whole.value < -0.8 and whole.low <= whole.value <= whole.high < 0 and whole.groups == 6


def test_bootstrap_resamples_cells_not_points():
    """Repeating every point of a cell adds no information, so the interval must not shrink."""
    rows = [point(float(cell), float((cell * 5) % 8), key=str(cell)) for cell in range(8)]
    once, many = theory.pooled(rows), theory.pooled(rows * 25)
    assert many.value == pytest.approx(once.value)
    assert (many.low, many.high) == pytest.approx((once.low, once.high))


def test_calibration_is_the_ratio_of_measured_to_predicted():
    rows = [point(value, 2 * value, unit="loss") for value in (1.0, 2.0, 5.0)] + [point(0.0, 1.0), point(-1.0, 1.0)]
    assert theory.calibration(rows) == "2 [2, 2]"
    assert theory.calibration([replace(row, measured=1234 * row.measured) for row in rows]) == "2,500 [2,500, 2,500]"
    assert theory.calibration(rows[:2]) == "–"


def recorded(seed, method="obd", keep=0.2, predicted=0.1, **fields):
    metrics = {
        "dense": {"accuracy": 0.98, "loss": 0.1},
        "pruned": {"accuracy": 0.98 - predicted, "loss": 0.1 + 2 * predicted},
        "tuned": {"accuracy": 0.97},
    }
    return made(
        seed,
        method=method,
        metrics=metrics,
        settings={"method": {"name": method}, "budget": {"keep": keep}},
        budget={"requested": {"keep": keep}},
        **fields,
    )


def test_points_of_recorded_predictions():
    predictions = [
        {"theory": "OBD", "layer": None, "predicted": 0.3, "measured": None, "unit": "loss"},
        {"theory": "OBD", "layer": "fc1", "predicted": 0.1, "measured": 0.2, "unit": "loss"},
        {"theory": "OBD", "layer": "fc2", "predicted": None, "measured": 0.2, "unit": "loss"},
    ]
    found = {
        (p.outcome, p.layer): (p.predicted, p.measured) for p in theory.points([recorded(0, predictions=predictions)])
    }
    found = {where: value for where, value in found.items()}
    assert found["loss increase", None] == (0.3, pytest.approx(0.2))
    assert found["accuracy drop after fine-tuning", None] == (0.3, pytest.approx(0.01))
    assert found["measured", "fc1"] == (0.1, 0.2)
    assert ("measured", None) not in found and ("measured", "fc2") not in found


def test_points_of_reported_layers_are_summed_for_the_network():
    layers = [
        {"name": str(n), "units": 4, "kept": 2, "predicted_increase": 0.1 * n, "output_error": 1.0 * n} for n in (1, 2)
    ]
    found = theory.points([recorded(0, layers=layers)])
    network = [p for p in found if p.outcome == "loss increase"]
    assert [(p.theory, p.unit, p.layer) for p in network] == [("predicted loss increase (obd)", "loss", None)]
    assert math.isclose(network[0].predicted, 0.3)
    assert [(p.layer, p.predicted, p.measured) for p in found if p.outcome == "measured"] == [
        ("1", 0.1, 1.0),
        ("2", 0.2, 2.0),
    ]
    layers[1].pop("predicted_increase")
    found = theory.points([recorded(0, layers=layers)])
    assert all(p.layer is not None for p in found), "a sum over some of the layers is no prediction of the network"


def test_better_predictor_comes_first_on_the_board(tmp_path, capsys):
    store = Store(tmp_path / "runs", tmp_path / "cells")
    for seed in range(4):
        for keep in (0.1, 0.2, 0.3, 0.5):
            predictions = [
                {"theory": "good", "layer": None, "predicted": 0.03 / keep, "measured": None, "unit": "loss"},
                {"theory": "bad", "layer": None, "predicted": float((seed * 7 + int(10 * keep)) % 5), "unit": None},
            ]
            store.write(recorded(seed, keep=keep, predicted=0.03 / keep, predictions=predictions))
    assert main(["--results", str(tmp_path), "--theory"]) == 0
    said = capsys.readouterr().out
    assert said.index(" good ") < said.index(" bad ") and "1.00 [1.00, 1.00]" in said and "2 [2, 2]" in said
    first = (tmp_path / "boards" / "theory.md").read_bytes()
    assert main(["--results", str(tmp_path), "--theory"]) == 0
    assert (tmp_path / "boards" / "theory.md").read_bytes() == first
    with pytest.raises(BadInput, match="No record holds predictions"):
        main(["--results", str(tmp_path / "nothing"), "--theory"])


def test_long_names_stay_whole_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.leaderboard.output_console", lambda: Console(width=100, highlight=False))
    store = Store(tmp_path / "runs", tmp_path / "cells")
    name = "spectral output information loss, without its reconstruction"
    for seed in range(4):
        for keep in (0.1, 0.2, 0.3, 0.5):
            rows = [
                {"theory": name, "layer": layer, "predicted": number / keep, "measured": number / keep, "unit": "loss"}
                for number, layer in enumerate(("a", "b", "c"), 1)
            ]
            store.write(recorded(seed, keep=keep, predicted=0.03 / keep, predictions=rows))
    assert main(["--results", str(tmp_path), "--theory"]) == 0
    said = capsys.readouterr().out
    assert name in said and "no room here for: tau, all; rho, over" in said
    assert "rho, over layers" in (tmp_path / "boards" / "theory.md").read_text()


def test_layers_without_figures_of_a_theory_give_no_points():
    layers = [{"name": "1", "units": 4, "kept": 2}]
    assert theory.points([recorded(0, layers=layers)]) == []
    assert theory.points([recorded(0, layers=[])]) == []


def test_what_is_predicted_in_the_record_is_not_taken_from_its_layers_again():
    layers = [{"name": "1", "units": 4, "kept": 2, "predicted_increase": 0.1, "output_error": 1.0}]
    name = "predicted loss increase (obd)"
    predictions = [{"theory": name, "layer": "1", "predicted": 0.5, "measured": 0.7, "unit": "loss"}]
    found = theory.points([recorded(0, layers=layers, predictions=predictions)])
    assert [(p.theory, p.layer, p.predicted, p.measured) for p in found] == [(name, "1", 0.5, 0.7)]


@pytest.mark.parametrize("target,repaired", [
    ("methods.compensation.LeastSquares", True), ("methods.compensation.Compensation", False), ("", False),
])  # fmt: skip
def test_a_spectral_bound_says_whether_the_network_has_its_reconstruction(target, repaired):
    layers = [{"name": "1", "units": 4, "kept": 2, "loss_bound": 0.1, "output_error": 1.0}]
    record = recorded(0, method="spectral", layers=layers)
    record = record.model_copy(update={"config": record.config | {"compensation": {"_target_": target}}})
    names = {p.theory for p in theory.points([record])}
    assert names and all(name.endswith(", without its reconstruction") != repaired for name in names)


def test_the_board_has_kendalls_tau_and_correlates_networks_over_budgets_not_over_layers():
    rows = [point(float(i), float((3 * i) % 7), key=str(i), outcome="loss increase") for i in range(6)]
    [found] = theory.rank(rows)
    expected = scipy.stats.kendalltau([p.predicted for p in rows], [p.measured for p in rows]).statistic
    assert found.kendall == pytest.approx(expected)
    assert found.within["over layers"] == theory.Correlation(None, None, None, 0)
