"""What a selection foretells of the whole network is asked once, after all steps, and kept as it is."""

from networks import calibration, make

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


def test_predictions_are_those_of_the_selection_for_the_networks_before_and_after():
    selection, model, data = Foretelling(), make("chain"), calibration()
    pruned = Pruner(selection, schedule=Iterative(2)).prune(model, data, Budget("keep", 0.5))
    assert pruned.predictions == [{"theory": "mine", "predicted": 0.5}]
    [(dense, asked, samples)] = selection.asked
    assert dense is model and asked is pruned and samples is data


def test_a_selection_that_foretells_nothing_leaves_none():
    assert Pruner(MagnitudeSelection()).prune(make("chain"), calibration(), Budget("keep", 0.5)).predictions == []
