"""What a selection returns is looked at once for all methods, and its unit follows from what it looks at."""

import subprocess
import sys

import pytest
import torch
from networks import calibration, make
from torch import Tensor

import methods
from methods import BadInput, Budget, EdgeLayer, Layer, NodeLayer, Pruner, Selection
from methods.allocation import Global

DATA = calibration(24)


def prune(selection, **parts):
    return Pruner(selection, **parts).prune(make("chain"), DATA, Budget("keep", 0.4))


class Nodes(Selection[NodeLayer]):
    def scores(self, layer):
        return layer.incoming.norm(dim=1)


class Edges(Selection[EdgeLayer]):
    def scores(self, layer):
        return layer.weight.abs()


def test_the_unit_follows_from_the_layer_in_the_brackets():
    class Further(Edges):
        pass

    class Either(Selection[Layer]):
        pass

    class Eigen(Selection[Layer]):
        unit = "eigen"

    assert (Nodes.unit, Edges.unit, Further.unit, Either.unit, Eigen.unit) == ("node", "edge", "edge", "node", "eigen")
    assert set(prune(Edges()).masks) == {"1.weight", "3.weight", "5.weight"}
    assert set(prune(Nodes()).kept) == {"1", "3"}


def test_a_unit_that_contradicts_the_brackets_is_refused():
    with pytest.raises(TypeError, match="Wrong looks at EdgeLayer, so its unit is not 'node'"):

        class Wrong(Selection[EdgeLayer]):
            unit = "node"


def wrong_length(scores: Tensor) -> Tensor:
    return scores[:3]


def with_nan(scores: Tensor) -> Tensor:
    scores = scores.clone()
    scores.view(-1)[1] = float("nan")
    return scores


def with_infinity(scores: Tensor) -> Tensor:
    scores = scores.clone()
    scores.view(-1)[0] = float("inf")
    return scores


BAD = {
    wrong_length: r"returned shape \(3.*expected a tensor of shape \(",
    with_nan: "returned 1 of .* NaN or infinite",
    with_infinity: "returned 1 of .* NaN or infinite",
    list: "returned list; expected a tensor",
}


@pytest.mark.parametrize("allocation", [None, Global()])
@pytest.mark.parametrize("base", [Nodes, Edges])
@pytest.mark.parametrize("bad", BAD)
def test_scores_of_a_wrong_shape_or_not_finite_are_refused_with_class_and_layer(base, bad, allocation):
    class Faulty(base):
        def scores(self, layer):
            return bad(super().scores(layer)) if layer.name == "3" else super().scores(layer)

    with pytest.raises(BadInput, match=BAD[bad]) as caught:
        prune(Faulty(), allocation=allocation)
    assert str(caught.value).startswith("Faulty.scores of layer 3 ")
    assert len(str(caught.value).splitlines()) <= 2


NODES = {
    "one too few": (lambda layer, k: torch.arange(k - 1), "keeps 5 of 16 units; expected exactly the 6"),
    "one too many": (lambda layer, k: torch.arange(k + 1), "keeps 7 of 16 units; expected exactly the 6"),
    "twice": (lambda layer, k: torch.zeros(k, dtype=torch.int64), "sorted and different"),
    "unsorted": (lambda layer, k: torch.arange(k).flip(0), "sorted and different"),
    "out of range": (lambda layer, k: torch.arange(k) + 12, "from 0 to 15"),
    "a mask": (lambda layer, k: torch.arange(16) < k, "int64 indices"),
}
EDGES = {
    "one too few": (lambda layer, k: mask(layer, k - 1), "keeps 127 of 320 units; expected exactly the 128"),
    "transposed": (lambda layer, k: mask(layer, k).T, r"mask of shape \(16, 20\)"),
    "numbers": (lambda layer, k: mask(layer, k).float(), "boolean mask"),
}


def mask(layer: EdgeLayer, k: int) -> Tensor:
    return (torch.arange(layer.size) < k).view_as(layer.live)


@pytest.mark.parametrize("order", ["independent", "forward", "backward"])
@pytest.mark.parametrize("name", NODES)
def test_nodes_that_are_not_exactly_those_asked_for_are_refused(name, order):
    choose, message = NODES[name]

    class Faulty(Nodes):
        def select(self, layer, k):
            return choose(layer, k) if layer.name == "3" else super().select(layer, k)

    Faulty.order = order
    with pytest.raises(BadInput, match=message) as caught:
        prune(Faulty())
    assert "Faulty.select for layer 3" in str(caught.value)


@pytest.mark.parametrize("name", EDGES)
def test_edges_that_are_not_exactly_those_asked_for_are_refused(name):
    choose, message = EDGES[name]

    class Faulty(Edges):
        def select(self, layer, k):
            return choose(layer, k) if layer.name == "3" else super().select(layer, k)

    with pytest.raises(BadInput, match=message) as caught:
        prune(Faulty())
    assert "Faulty.select for layer 3" in str(caught.value)


def test_a_layer_without_an_answer_is_named():
    class Forgetful(Nodes):
        def select_all(self, layers, counts):
            return {"1": self.select(layers[0], counts["1"])}

    with pytest.raises(BadInput, match="Forgetful.select_all has nothing for layer 3"):
        prune(Forgetful())


def test_every_public_name_is_there_and_nothing_is_imported_before():
    for name in methods.__all__:
        assert name == "Layer" or getattr(methods, name).__name__ == name
    assert set(methods.__all__) <= set(dir(methods))
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        methods.nothing_of_this_name  # noqa: B018
    code = "import methods, sys; print(*[m for m in sys.modules if m == 'torch' or m.startswith('methods.')])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["methods.door"]  # which imports the others when they are asked for
