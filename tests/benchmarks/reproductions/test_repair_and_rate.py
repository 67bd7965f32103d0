"""Selection x repair x rate: contrasts, the choice of rates and the verdicts, on cells whose effects are known."""

import itertools

import pytest

from benchmarks.reproductions import module_of
from methods.errors import BadInput

grid = module_of("selection_x_repair_x_rate")

CHOICE = {"spectral": 4.0, "dpp": 2.0, "magnitude": 1.0, "random": 0.0}
REPAIR = {"none": 0.0, "fit": 20.0, "refit": 30.0}
LATER = {"none": 0.0, "fit": 3.0, "refit": 1.0}  # at the preset's rate
NOISE = (0.0, 0.02, -0.02, 0.01, -0.01)


def cells(seeds=5):
    """Before fine-tuning refitting is 10 points above the fit, at the preset's rate 2 below, at higher ones equal."""
    rows = []
    for selection, repair, multiple, seed in itertools.product(CHOICE, REPAIR, (1.0, 3.0, 10.0), range(seeds)):
        tuned = 90 + CHOICE[selection] / 4 + {1.0: LATER[repair], 3.0: 3.5, 10.0: 5.0}[multiple]
        validation = {1.0: 90.0, 3.0: 95.0, 10.0: 80.0}[multiple]  # the test split would choose another rate
        noise = NOISE[seed] * (1 + 1.7 * list(REPAIR).index(repair) + len(selection))
        rows.append(
            {"task": "toy", "selection": selection, "repair": repair, "multiple": multiple, "seed": seed}
            | {"dense": 99.0, "before": 50 + CHOICE[selection] + REPAIR[repair] + noise}
            | {"after": tuned + noise, "validation": validation + seed / 10}
        )
    return rows


def test_effects_are_those_that_were_put_in():
    outcome = grid.finish(cells())
    effects = outcome.numbers["effects"].set_index(["stage", "contrast"])
    assert effects.loc[(grid.BEFORE, "refit - fit"), "difference"] == pytest.approx(10, abs=0.1)
    assert effects.loc[(grid.BEFORE, "spectral - random"), "difference"] == pytest.approx(4, abs=0.1)
    assert effects.loc[(grid.PRESET, "refit - fit"), "difference"] == pytest.approx(-2, abs=0.1)
    assert effects.loc[(grid.PRESET, "DPP - random"), "difference"] == pytest.approx(0.5, abs=0.1)
    assert effects.loc[(grid.CHOSEN, "refit - fit"), "difference"] == pytest.approx(0, abs=0.1)
    assert set(effects["n"]) == {5} and (effects["half_interval"] > 0).all()


def test_rates_are_chosen_on_validation_and_not_on_the_test_split():
    outcome = grid.finish(cells())
    assert set(outcome.table["best rate / preset's"]) == {3.0}  # at ten times the preset's the test split has more


def test_claims_follow_the_effects():
    seen = {claim.text.removeprefix("toy: "): claim.seen for claim in grid.finish(cells()).claims}
    assert seen[f"{grid.BEFORE}, the repair matters more than the choice of nodes"] is True
    assert seen[f"{grid.BEFORE}, refitting is more accurate than the plain fit"] is True
    assert seen[f"{grid.PRESET}, refitting is less accurate than the plain fit"] is True
    assert seen[f"{grid.CHOSEN}, refitting is less accurate than the plain fit"] is None
    assert seen[f"{grid.BEFORE}, spectral nodes are better than random ones"] is True
    swapped = [
        row | {"selection": {"spectral": "random", "random": "spectral"}.get(row["selection"], row["selection"])}
        for row in cells()
    ]
    seen = {claim.text.removeprefix("toy: "): claim.seen for claim in grid.finish(swapped).claims}
    assert seen[f"{grid.BEFORE}, spectral nodes are better than random ones"] is False


def test_one_seed_decides_nothing():
    assert {claim.seen for claim in grid.finish(cells(1)).claims} == {None}


def test_a_missing_cell_is_refused():
    with pytest.raises(BadInput, match="toy: 179 of 180 combinations"):
        grid.finish(cells()[:-1])
    with pytest.raises(BadInput, match="run the others first"):
        grid.finish([*cells()[:-1], cells()[-1] | {"validation": None}])


@pytest.mark.slow
def test_its_figures_are_drawn(drawn):
    assert len(drawn("selection_x_repair_x_rate", grid.finish(cells()))) == 4
