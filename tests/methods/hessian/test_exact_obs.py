import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.compensation import LeastSquares
from methods.errors import BadInput, Skipped
from methods.hessian.exact_obs import ExactOBSSelection, cheapest_removals, inverse_hessian, kept_mask, removal_order
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration, Moments, collect_moments
from methods.layers.views import edge_views
from methods.network.reading import patch_rows


def problem(seed, rows, size, samples=None):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, samples or 3 * size, dtype=torch.float64, generator=generator)
    inputs = torch.randn(size, size, dtype=torch.float64, generator=generator) @ inputs
    return torch.randn(rows, size, dtype=torch.float64, generator=generator), inputs


def one_by_one(row, hessian, block=1, pattern=None):
    """Oracle: the published loop for one row with its full inverse; order, losses and the weights after each step."""
    size, inverse, w = len(row), torch.linalg.inv(hessian), row.clone()
    alive, gone = [True] * (size // block), [0] * size
    order, losses, trace = [], [], []
    while True:
        choices = []
        for b in range(size // block):
            if not alive[b] or (pattern and gone[b // pattern[1]] == pattern[1] - pattern[0]):
                continue
            inside = slice(b * block, (b + 1) * block)
            choices.append((float(w[inside] @ torch.linalg.solve(inverse[inside, inside], w[inside])), b))
        if not choices:
            return order, losses, trace
        score, b = min(choices)
        inside = slice(b * block, (b + 1) * block)
        solved = torch.linalg.solve(inverse[inside, inside], torch.cat([w[inside, None], inverse[inside]], 1))
        w = w - inverse[:, inside] @ solved[:, 0]
        inverse = inverse - inverse[:, inside] @ solved[:, 1:]
        alive[b] = False
        if pattern:
            gone[b // pattern[1]] += 1
        order.append(b)
        losses.append(score / 2)
        trace.append(w)


@pytest.mark.verifies("exact_obs", by="brute force")
@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.sampled_from([(6, 1, None), (12, 1, None), (12, 3, None), (12, 1, (2, 4)), (8, 1, (1, 2)), (10, 2, None)]),
    st.sampled_from([1, 4, 64]),
)
def test_order_and_losses_are_the_published_loops(seed, rows, shape, interval):
    size, block, pattern = shape
    weight, inputs = problem(seed, rows, size)
    hessian = 2 * inputs @ inputs.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("methods.hessian.exact_obs.INTERVAL", interval)
        removals = removal_order(weight, torch.linalg.inv(hessian), block, pattern)
    for row in range(rows):
        order, losses, _ = one_by_one(weight[row], hessian, block, pattern)
        assert removals.order[row].tolist() == order
        torch.testing.assert_close(removals.losses[row], torch.tensor(losses).double(), rtol=1e-6, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([1, 2, 5]))
def test_output_error_is_the_sum_of_the_recorded_losses(seed, removed, block):
    """With H = 2 X X^T the losses are sums of squares; least squares ends at the same weights as the updates."""
    weight, inputs = problem(seed, 6, 10)
    second = inputs @ inputs.T / inputs.shape[1]
    inverse, _ = inverse_hessian(second, inputs.shape[1], 0.0)
    removals = removal_order(weight, inverse, block)
    counts = cheapest_removals(removals, removed // block)
    mask = kept_mask(removals, counts, 10, block)
    assert int((~mask).sum()) == removed // block * block
    layer = layer_of(weight, Moments(second, inputs.mean(1), inputs.shape[1]))
    updated = LeastSquares().edge_weights([layer], {"layer": mask}, ExactOBSSelection())["layer"]
    expected = sum(float(removals.losses[row, :count].sum()) for row, count in enumerate(counts.tolist()))
    actual = float(((weight - updated) @ inputs).square().sum())
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
    if block == 1:
        for row, count in enumerate(counts.tolist()):
            if count:
                trace = one_by_one(weight[row], 2 * inputs @ inputs.T)[2][count - 1]
                torch.testing.assert_close(updated[row], trace, rtol=1e-5, atol=1e-6)


def layer_of(weight, moments, live=None, shape=None):
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    if shape is not None:
        module = nn.Conv2d(shape[1], shape[0], shape[2:], bias=False).double()
    with torch.no_grad():
        module.weight.copy_(weight.view(module.weight.shape))
    model = nn.ModuleDict({"layer": module})
    calibration = Calibration(torch.zeros(1, weight.shape[1]), torch.zeros(1), torch.arange(1))
    live = torch.ones_like(weight, dtype=torch.bool) if live is None else live
    return EdgeLayer("layer", model, calibration, torch.Generator(), lambda: moments, live)


def moments_of(inputs):
    return Moments(inputs @ inputs.T / inputs.shape[1], inputs.mean(1), inputs.shape[1])


def test_rows_do_not_depend_on_each_other_or_on_the_batches(monkeypatch):
    weight, inputs = problem(0, 7, 9)
    inverse = torch.linalg.inv(2 * inputs @ inputs.T)
    whole = removal_order(weight, inverse)
    alone = removal_order(weight[3:4], inverse)
    assert torch.equal(alone.order[0], whole.order[3])
    torch.testing.assert_close(alone.losses[0], whole.losses[3])
    monkeypatch.setattr("methods.hessian.exact_obs.BATCH_BYTES", 2 * 8 * 81)
    assert torch.equal(removal_order(weight, inverse).order, whole.order)


def test_with_white_inputs_it_is_magnitude_pruning():
    weight, _ = problem(1, 5, 8)
    layer = layer_of(weight, Moments(3 * torch.eye(8, dtype=torch.float64), torch.zeros(8).double(), 10))
    mask = ExactOBSSelection(damping=0.0).select(layer, 13)
    smallest_kept, largest_gone = weight[mask].abs().min(), weight[~mask].abs().max()
    assert int(mask.sum()) == 13 and smallest_kept > largest_gone


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 40))
def test_counts_are_met_in_the_layer_and_per_row(seed, k):
    weight, inputs = problem(seed, 5, 8)
    layer = layer_of(weight, moments_of(inputs))
    selection = ExactOBSSelection()
    assert int(selection.select(layer, k).sum()) == k
    counts = torch.tensor([0, 1, 4, 7, 8])
    assert torch.equal(selection.select(layer, counts).sum(1), counts)


def test_the_selection_beats_magnitude_at_equal_repair():
    better = 0
    for seed in range(10):
        weight, inputs = problem(seed, 6, 12)
        layer = layer_of(weight, moments_of(inputs))
        errors = []
        cutoff = weight.abs().flatten().sort().values[36]
        for mask in (ExactOBSSelection(damping=0.0).select(layer, 36), weight.abs() >= cutoff):
            assert int(mask.sum()) == 36
            updated = LeastSquares().edge_weights([layer], {"layer": mask}, ExactOBSSelection())["layer"]
            errors.append(float(((weight - updated) @ inputs).square().sum()))
        better += errors[0] < errors[1]
    assert better == 10


def test_two_of_four():
    weight, inputs = problem(2, 6, 16)
    mask = ExactOBSSelection(pattern="2:4").select(layer_of(weight, moments_of(inputs)), 48)
    assert (mask.view(6, 4, 4).sum(2) == 2).all()


def test_two_of_four_runs_along_the_channels_of_convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 3, 3, bias=False)).double()
    calibration = Calibration(torch.randn(20, 8, 6, 6).double(), torch.zeros(20), torch.arange(20))
    moments = collect_moments(model, {"0": ("0", patch_rows(model[0]))}, calibration)["0"]
    live = torch.ones(3, 72, dtype=torch.bool)
    layer = EdgeLayer("0", model, calibration, torch.Generator(), lambda: moments, live)
    mask = ExactOBSSelection(pattern="2:4").select(layer, 108).view(3, 2, 4, 3, 3)
    assert (mask.sum(2) == 2).all()


def test_blocks_of_consecutive_inputs():
    weight, inputs = problem(3, 4, 12)
    mask = ExactOBSSelection(block=3).select(layer_of(weight, moments_of(inputs)), 31)
    groups = mask.view(4, 4, 3)
    assert (groups.all(2) | ~groups.any(2)).all()
    assert int(mask.sum()) == 30


def test_weights_pruned_earlier_go_first_at_no_cost():
    weight, inputs = problem(4, 5, 9)
    live = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    layer = layer_of(weight * live, moments_of(inputs), live)
    mask = ExactOBSSelection().select(layer, int(live.sum()) - 4)
    assert int(mask.sum()) == int(live.sum()) - 4 and bool((mask <= live).all())
    assert torch.equal(ExactOBSSelection().select(layer, int(live.sum())), live)


def test_inputs_that_are_always_zero_are_dropped_first():
    weight, inputs = problem(5, 4, 6)
    inputs[2] = 0
    mask = ExactOBSSelection(damping=0.0).select(layer_of(weight, moments_of(inputs)), 20)
    assert not mask[:, 2].any() and int(mask.sum()) == 20


def test_dependent_inputs_need_damping():
    weight, inputs = problem(6, 4, 6)
    second = moments_of(inputs).second
    second[:, 1], second[1, :] = second[:, 0], second[0, :]
    second[1, 1] = second[0, 0] * (1 - 1e-9)  # dependent, and on the wrong side of singular by rounding
    layer = layer_of(weight, Moments(second, inputs.mean(1), 18))
    with pytest.raises(BadInput, match="damping"):
        ExactOBSSelection(damping=0.0).select(layer, 12)
    assert int(ExactOBSSelection(damping=0.1).select(layer, 12).sum()) == 12


def test_what_does_not_fit_is_refused():
    weight, inputs = problem(7, 4, 6)
    layer = layer_of(weight, moments_of(inputs))
    with pytest.raises(Skipped, match="multiple of 4"):
        ExactOBSSelection(pattern="2:4").select(layer, 12)
    with pytest.raises(BadInput, match=r"budget\.keep=0\.5"):
        ExactOBSSelection(pattern="1:2").select(layer, 6)
    for bad in ("4:2", "2/4", "0:4"):
        with pytest.raises(BadInput, match="pattern"):
            ExactOBSSelection(pattern=bad)
    with pytest.raises(BadInput, match="block"):
        ExactOBSSelection(block=0)
    with pytest.raises(BadInput, match="damping"):
        ExactOBSSelection(damping=-1.0)


def test_each_group_of_a_convolution_is_pruned_and_repaired_as_a_convolution_by_itself():
    grouped = nn.Conv2d(4, 6, 2, groups=2, bias=False).double()
    filters = torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grouped.weight.data = filters
    reads = torch.randn(20, 4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reads = reads + reads.roll(1, 1)  # inputs that depend on each other
    parts = [nn.Conv2d(2, 3, 2, bias=False).double() for _ in range(2)]
    alone = []
    for number, part in enumerate(parts):
        part.weight.data = filters[3 * number : 3 * number + 3]
        data = Calibration(reads[:, 2 * number : 2 * number + 2], torch.zeros(20), torch.arange(20), batch_size=7)
        alone += edge_views(nn.Sequential(part), ["0"], {}, data, "test")
    data = Calibration(reads, torch.zeros(20), torch.arange(20), batch_size=7)
    [layer] = edge_views(nn.Sequential(grouped), ["0"], {}, data, "test")
    selection, counts = ExactOBSSelection(), torch.tensor([3, 4, 5, 2, 6, 4])
    mask = selection.select(layer, counts)
    masks = [selection.select(each, own) for each, own in zip(alone, counts.chunk(2), strict=True)]
    assert torch.equal(mask, torch.cat(masks))
    repaired = LeastSquares().edge_weights([layer], {"0": mask}, selection)["0"]
    expected = [
        LeastSquares().edge_weights([each], {"0": own}, selection)["0"] for each, own in zip(alone, masks, strict=True)
    ]
    assert torch.allclose(repaired, torch.cat(expected), atol=1e-10)
    assert int(selection.select(layer, 20).sum()) == 20
