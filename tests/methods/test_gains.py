"""What further units are worth, the best first: a ranking by cost takes them in this order."""

import pytest
import torch
from networks import calibration, make

from methods.baselines.magnitude import MagnitudeSelection
from methods.layers.views import edge_layers, edge_views, node_views
from methods.network.graph import NetworkGraph

DATA = calibration()


def test_gains_of_nodes_are_their_scores_from_the_largest_to_the_smallest():
    model, selection = make("chain"), MagnitudeSelection()
    for layer in node_views(model, NetworkGraph(model, DATA.inputs).groups, DATA, "0"):
        gains = selection.gains(layer)
        assert gains.tolist() == sorted(selection.scores(layer).tolist(), reverse=True)


@pytest.mark.parametrize("left", [1, 7])
def test_gains_of_weights_that_were_pruned_before_come_last_and_count_for_nothing(left):
    model, selection = make("chain"), MagnitudeSelection("edge")
    names = edge_layers(model, DATA.inputs)
    weight = model.get_submodule(names[0]).weight
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask.view(-1)[:left] = True
    layer = edge_views(model, names, {f"{names[0]}.weight": mask}, DATA, "0")[0]
    gains = selection.gains(layer)
    assert gains[:left].tolist() == sorted(weight.detach().double().abs().flatten()[:left].tolist(), reverse=True)
    assert gains[left:].isneginf().all()
