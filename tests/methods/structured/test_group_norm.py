"""Group norms against torch-pruning's own importance, whose formula they follow."""

import pytest
import torch
from networks import NETWORKS, calibration, make

from methods.baselines.torch_pruning import TorchPruningSelection
from methods.errors import BadInput
from methods.layers.views import node_views
from methods.network.graph import NetworkGraph
from methods.structured.group_norm import GroupNormSelection


@pytest.mark.verifies("group_norm", by="authors' program")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("p", [1, 2])
def test_group_norm_is_the_importance_of_the_authors_package(name, p):
    model, data = make(name), calibration(8)
    layers = node_views(model, NetworkGraph(model, data.inputs[:2], residual=True).groups, data, "test")
    assert layers
    theirs = TorchPruningSelection(arguments={"p": p})
    for layer in layers:
        torch.testing.assert_close(GroupNormSelection(p).scores(layer), theirs.scores(layer), rtol=1e-5, atol=1e-8)


def test_another_power_is_refused():
    with pytest.raises(BadInput, match="selection.p=3"):
        GroupNormSelection(3)
