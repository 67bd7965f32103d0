"""Each unstructured criterion against its definition, written out with loops on cases small enough."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from methods.errors import BadInput
from methods.hessian.exact_obs import inverse_hessian
from methods.layers.statistics import Calibration
from methods.layers.views import edge_views
from methods.unstructured.grasp import GraSPSelection
from methods.unstructured.lamp import LAMPSelection, lamp_scores
from methods.unstructured.snip import SNIPSelection
from methods.unstructured.sparsegpt import SparseGPTSelection, SparseGPTUpdate, choose, sweep
from methods.unstructured.synflow import SynFlowSelection, synaptic_flow
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


@pytest.mark.verifies("lamp", by="brute force")
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


@pytest.mark.verifies("wanda", by="brute force")
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


def factor_of(second):
    return torch.linalg.cholesky(inverse_hessian(second, 40, 0.01)[0], upper=True)[None]


@pytest.mark.verifies("sparsegpt", by="brute force")
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
    assert torch.allclose(sweep(weight, factor_of(second), mask), wanted * mask, atol=1e-8)


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
    factor, live = factor_of(second), torch.ones(3, 6, dtype=torch.bool)
    mask = choose(weight, factor, live, [4, 4], 3)
    half = sweep(weight, factor, torch.cat([mask[:, :3], live[:, 3:]], 1))
    scores = (half / factor[0].diagonal()).square()
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


def test_sparsegpt_drops_weights_of_inputs_that_are_always_zero_first_and_leaves_kept_ones_alone():
    """However large they are, and however small the other inputs: all rows lose columns 1 and 3 of four."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 6))
    with torch.no_grad():
        model[0].weight[:, [1, 3]] = 50.0
    inputs = 1e-3 * torch.randn(30, 4, generator=torch.Generator().manual_seed(4))
    inputs[:, [1, 3]] = 0
    data = Calibration(inputs, torch.zeros(30, dtype=torch.int64))
    [layer] = edge_views(model, ["0"], {}, data, "test")
    mask = SparseGPTSelection().select(layer, 12)
    assert mask[:, [0, 2]].all() and not mask[:, [1, 3]].any()
    everything = {"0": torch.ones_like(mask)}
    updated = SparseGPTUpdate().edge_weights([layer], everything, SparseGPTSelection())["0"]
    assert torch.equal(updated, layer.weight)


@pytest.mark.verifies("snip", by="brute force")
def test_snip_is_the_derivative_of_the_loss_by_an_indicator_on_each_weight():
    model, data, both = layers()
    for layer in both:
        weight = model.get_submodule(layer.name).weight.detach()
        indicator = torch.ones_like(weight, requires_grad=True)
        named = {f"{layer.name}.weight": weight * indicator}
        loss = nn.functional.cross_entropy(functional_call(model, named, data.inputs), data.labels)
        [wanted] = torch.autograd.grad(loss, indicator)
        assert torch.allclose(SNIPSelection().scores(layer), wanted.abs().double().flatten(1), atol=1e-6)


@pytest.mark.verifies("grasp", by="brute force")
@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(temperature):
    """Against the whole Hessian of the few weights, in two batches of unequal size."""
    model, data, both = layers()
    model.double()
    data = Calibration(data.inputs.double(), data.labels, batch_size=13)
    both = edge_views(model, ["0", "3"], {}, data, "test")
    weights = [model[0].weight.detach(), model[3].weight.detach()]
    sizes = [weight.numel() for weight in weights]

    def loss(flat):
        first, last = flat.split(sizes)
        named = {"0.weight": first.view_as(weights[0]), "3.weight": last.view_as(weights[1])}
        return nn.functional.cross_entropy(functional_call(model, named, data.inputs) / temperature, data.labels)

    flat = torch.cat([weight.flatten() for weight in weights])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    wanted = (flat * (torch.autograd.functional.hessian(loss, flat) @ gradient)).split(sizes)
    for layer, each in zip(both, wanted, strict=True):
        scores = GraSPSelection(temperature).scores(layer)
        assert torch.allclose(scores.flatten(), each, rtol=1e-4, atol=1e-12)


@pytest.mark.verifies("synflow", by="closed form")
def test_synflow_is_conserved_over_units_and_sees_no_data():
    """Of a hidden unit the scores of what it reads and of what reads it add up to the same, without biases."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    flow = synaptic_flow(model, ["0", "2"], torch.full((1, 4), torch.nan))
    first, last = (model[i].weight.detach().double().abs() for i in (0, 2))
    assert torch.allclose(flow["0"], first * last.sum(0)[:, None])
    assert torch.allclose(flow["2"], last * first.sum(1)[None])
    assert torch.allclose(flow["0"].sum(1), flow["2"].sum(0))


def test_synflow_leaves_the_network_as_it_is_and_scores_every_layer_at_once():
    model, _, both = layers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = [SynFlowSelection().scores(layer) for layer in both]
    assert all(bool((each >= 0).all()) and each.any() for each in scores)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(both[0].shared["synaptic flow"]) == 2


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(BadInput, match="selection.temperature=0"):
        GraSPSelection(0.0)
