"""What layers read, as rows: the weight times the rows must be what the layer computes."""

import pytest
import torch
from networks import noise
from torch import nn

from methods.network.reading import patch_rows


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options", [{"padding": 0}, {"padding": (1, 2), "stride": 2}, {"padding": "same", "dilation": 2}]
)
def test_rows_of_a_convolution_give_its_output(mode, options):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, bias=False, padding_mode=mode, **options).double()
    read = torch.randn(4, 3, 8, 9, dtype=torch.float64)
    found = layer.weight.flatten(1) @ patch_rows(layer)(read)
    assert torch.allclose(found, layer(read).transpose(0, 1).flatten(1), atol=1e-12)


def test_rows_of_a_linear_layer_give_its_output_on_tokens():
    layer = nn.Linear(4, 3, bias=False).double()
    read = noise(2, 5, 4, dtype=torch.float64)
    assert torch.allclose(layer.weight @ patch_rows(layer)(read), layer(read).flatten(0, 1).T)
