"""Each unstructured criterion against its definition, written out with loops on cases small enough."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.errors import Skipped
from methods.layers.statistics import Calibration
from methods.layers.views import edge_views
from methods.unstructured.lamp import LAMPSelection, lamp_scores
from methods.unstructured.sparsegpt import SparseGPTSelection, SparseGPTUpdate, choose, inverse_factor, sweep
from methods.unstructured.wanda import WandaSelection


def layers(groups=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2 * groups, 4 * groups, 3, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(16 * groups, 3)
        )
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 2 * groups, 4, 4, generator=generator)
    data = Calibration(inputs, torch.randint(0, 3, (20,), generator=generator), batch_size=8)
    return model, data, edge_views(model, ["0", "3"], {}, data, "test")


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), columns=st.integers(1, 6))
def test_lamp_divides_by_all_squares_that_are_not_smaller(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    live = torch.rand(rows, columns, generator=generator) < 0.8
    squares = weight.square().masked_fill(~live, 0)
    scores = lamp_scores(weight, live)
    for score, square, alive in zip(scores.flatten(), squares.flatten(), live.flatten(), strict=True):
        wanted = square / squares[squares >= square].sum() if alive else 0.0
        assert float(score) == pytest.approx(float(wanted))
    if live.any():
        assert scores.max() == 1


def test_lamp_keeps_the_order_of_magnitudes_within_a_layer():
    _, _, [first, _] = layers()
    scores = LAMPSelection().scores(first).flatten()
    assert torch.equal(scores.argsort(), first.weight.abs().flatten().argsort())


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_is_the_weight_times_the_size_of_its_input(groups):
    model, data, [first, last] = layers(groups)
    patches = nn.functional.unfold(data.inputs, 3).double()  # (n, channels x 9, positions)
    sizes = patches.square().mean((0, 2)).sqrt().view(groups, -1).repeat_interleave(4, 0)
    assert torch.allclose(WandaSelection().scores(first), model[0].weight.detach().double().flatten(1).abs() * sizes)
    read = model[:3](data.inputs).detach().double()
    wanted = model[3].weight.detach().double().abs() * read.square().mean(0).sqrt()
    assert torch.allclose(WandaSelection().scores(last), wanted)


def moments(seed, d=6, n=40):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x @ torch.randn(d, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return x.T @ x / n


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_the_sweep_makes_up_for_each_weight_with_the_optimal_update_of_those_to_its_right(seed):
    """One weight after the other, with the inverse of the Hessian of the columns that are not fixed yet."""
    second = moments(seed)
    generator = torch.Generator().manual_seed(seed + 2)
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 6, generator=generator) < 0.5
    system = second + 0.01 * second.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    wanted = weight.clone()
    for column in range(6):
        inverse = torch.linalg.inv(system[column:, column:])
        for row in range(3):
            if not mask[row, column]:
                wanted[row, column:] -= wanted[row, column].clone() / inverse[0, 0] * inverse[0]
    assert torch.allclose(sweep(weight, inverse_factor(second, 0.01), mask), wanted * mask, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), block=st.integers(1, 7), k=st.integers(0, 18))
def test_exactly_the_asked_weights_stay_and_blocks_have_their_share(seed, block, k):
    _, _, [_, last] = layers()
    selection = SparseGPTSelection(block=block)
    mask = selection.select(last, k)
    assert int(mask.sum()) == k
    share = k / last.size
    for start in range(0, 16, block):
        width = min(block, 16 - start)
        assert abs(int(mask[:, start : start + width].sum()) - share * 3 * width) <= 1
    rows = torch.tensor([2, 5, 16])
    assert selection.select(last, rows).sum(1).tolist() == rows.tolist()


def test_blocks_choose_by_the_weights_that_earlier_blocks_have_changed():
    second, weight = moments(3), torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    factor, live = inverse_factor(second, 0.01), torch.ones(3, 6, dtype=torch.bool)
    mask = choose(weight, factor, live, [4, 4], 3)
    half = sweep(weight, factor, torch.cat([mask[:, :3], live[:, 3:]], 1))
    scores = (half / factor.diagonal()).square()
    order = scores[:, 3:].flatten().argsort(descending=True)[:4]
    assert sorted(order.tolist()) == mask[:, 3:].flatten().nonzero().flatten().tolist()


def test_the_update_lowers_the_output_error_of_every_layer():
    _, _, both = layers()
    selection = SparseGPTSelection()
    masks = {layer.name: selection.select(layer, layer.size // 2) for layer in both}
    updated = SparseGPTUpdate().edge_weights(both, masks, selection)
    for layer in both:
        second = layer.moments.second

        def error(weight, second=second, layer=layer):
            change = weight - layer.weight
            return float((change @ second * change).sum())

        assert not updated[layer.name][~masks[layer.name]].any()
        assert error(updated[layer.name]) < error(layer.weight * masks[layer.name])


def test_grouped_convolutions_are_left_out_by_name():
    _, _, [first, _] = layers(groups=2)
    with pytest.raises(Skipped, match="grouped convolution"):
        SparseGPTSelection().select(first, 10)
