import pytest
import torch
from torch import nn

from benchmarks.cells.remarks import remarks


def linear(largest):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.1)
        model.weight[0, 1] = -largest
    return model


@pytest.mark.parametrize(
    ("grown", "tuned", "parts"),
    [
        (1.0, 0.9, []),
        (9.9, 0.8, []),
        (10.0, 0.9, ["the largest weight grew from 1 to 10, 10 times"]),
        (1.0, 0.79, ["fine-tuning lowered the accuracy from 0.8000 to 0.7900"]),
        (1.0, None, []),
    ],
)
def test_what_is_strange_is_said_and_nothing_else(grown, tuned, parts):
    metrics = {"pruned": {"accuracy": 0.8}, "tuned": {"accuracy": tuned}}
    assert remarks(linear(1.0), linear(grown), metrics) == parts


def test_a_network_without_weights_has_none_that_grew():
    assert remarks(nn.ReLU(), nn.ReLU(), {}) == []
