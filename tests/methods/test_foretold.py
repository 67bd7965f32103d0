"""What a selection foretells of the whole network is asked once, after all steps, and kept as it is."""

import pytest
from networks import calibration, make, placed

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.pruner import Pruner
from methods.schedule import Iterative


class Foretelling(MagnitudeSelection):
    """Keeps what it is asked with."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def predictions(self, dense, pruned, calibration):
        self.asked.append((dense, pruned, calibration))
        return [{"theory": "mine", "predicted": 0.5}]


def test_predictions_are_those_of_the_selection_for_the_networks_before_and_after(device):
    selection, model, data = Foretelling(), placed(make("chain"), device), placed(calibration(), device)
    pruned = Pruner(selection, schedule=Iterative(2)).prune(model, data, Budget("keep", 0.5))
    assert pruned.predictions == [{"theory": "mine", "predicted": 0.5}]
    [(dense, asked, samples)] = selection.asked
    assert dense is model and asked is pruned and samples is data


def test_a_selection_that_foretells_nothing_leaves_none():
    assert Pruner(MagnitudeSelection()).prune(make("chain"), calibration(), Budget("keep", 0.5)).predictions == []


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_what_a_selection_knows_of_a_layer_stands_in_its_row(unit):
    class Knowing(MagnitudeSelection):
        def report(self, layer, kept):
            return {"own": f"{layer.name}:{int(kept.sum()) if unit == 'edge' else len(kept)}"}

    pruned = Pruner(Knowing(unit)).prune(make("chain"), calibration(), Budget("keep", 0.5))
    assert [row["own"] for row in pruned.layers] == [f"{row['name']}:{row['kept']}" for row in pruned.layers]
