"""Spectral pruning of recurrent networks: the losses, the greedy search, and surgery that is exact at every step."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.models import ElmanRNN
from methods.allocation import Explicit
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.seeds import stream
from methods.spectral.recurrent import (
    RecurrentSpectralSelection,
    greedy_states,
    pruned_elman,
    recurrent_losses,
    time_averaged_covariance,
)
from methods.spectral.selection import SpectralSelection, reconstruction_matrix

STEPS, WIDTH, HIDDEN = 9, 3, 12


def network(hidden=HIDDEN, activation="relu", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ElmanRNN(hidden, activation, None, shape=(STEPS, WIDTH), classes=4)
    with torch.no_grad():
        model.input.bias += 0.3
    return model.eval()


def sequences(n=80, seed=0):
    inputs = torch.randn(n, STEPS, WIDTH, generator=stream(seed, "sequences"))
    return Calibration(inputs, torch.zeros(n, dtype=torch.int64), torch.arange(n), batch_size=32)


def double(seen):
    return Calibration(seen.inputs.double(), seen.labels, seen.indices, batch_size=32)


@torch.no_grad()
def states(model, x):
    """(n, T, m) of h_1 ... h_T, by the definition."""
    h, found = x.new_zeros(len(x), model.recurrent.in_features), []
    for t in range(x.shape[1]):
        h = model.activation(model.input(x[:, t]) + model.recurrent(h))
        found.append(h)
    return torch.stack(found, 1)


@torch.no_grad()
def duplicated(seed=0):
    """A network whose unit 2i + 1 always equals unit 2i: the same incoming rows, the same bias, h_0 = 0."""
    model = network(seed=seed)
    for tensor in (model.input.weight, model.input.bias, model.recurrent.weight):
        tensor[1::2] = tensor[::2]
    return model


class EverySecond(RandomSelection):
    def select(self, layer, k):
        return torch.arange(0, layer.size, 2 if k < layer.size else 1)


def random_problem(seed, m=7):
    generator = stream(seed, "problem")
    features = torch.randn(40, m, generator=generator, dtype=torch.float64).clamp(min=0)
    recurrent = torch.randn(m, m, generator=generator, dtype=torch.float64)
    output = torch.randn(3, m, generator=generator, dtype=torch.float64)
    return features.T @ features / 40, recurrent, output


def test_the_model_computes_elmans_recursion():
    model, x = network(), sequences().inputs
    assert torch.allclose(model(x), model.output(states(model, x)[:, -1]), atol=1e-6)
    identity = ElmanRNN(8, shape=(STEPS, WIDTH), classes=4)
    assert torch.equal(identity.recurrent.weight, torch.eye(8))


@pytest.mark.parametrize("steps", [1, STEPS])
def test_covariance_is_the_average_over_samples_and_steps(steps):
    model, seen = network(), sequences()
    inputs = seen.inputs[:, :steps]
    seen = Calibration(inputs, seen.labels, seen.indices, batch_size=32)
    expected = time_averaged_covariance(states(model, inputs))
    found = {}

    class Looking(RandomSelection):
        def select(self, layer, k):
            found["covariance"], found["moments"] = layer.covariance, layer.moments
            return super().select(layer, k)

    if steps == 1:  # nothing recurs, so nothing is coupled
        assert [group.recurrent for group in NetworkGraph(model, inputs).groups] == [False]
        return
    Pruner(Looking()).prune(model, seen, Budget("keep", 0.5))
    assert torch.allclose(found["covariance"], expected, atol=1e-6)
    assert found["moments"][0].count == steps * len(inputs)


def test_the_hidden_state_is_one_group_that_reads_itself():
    [group] = NetworkGraph(network(), sequences().inputs).groups
    assert group.recurrent and group.size == HIDDEN
    assert group.writers == ("input", "recurrent")
    assert [reader.name for reader in group.readers] == ["recurrent", "output"]


@pytest.mark.verifies("spectral_rnn", by="brute force")
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([(1, 0, 0), (0, 1, 0), (0.2, 0.4, 0.4), (0, 0, 1)]))
@settings(deadline=None, max_examples=40)
def test_greedy_choice_is_the_best_next_node_by_definition(seed, k, thetas):
    covariance, recurrent, output = random_problem(seed)
    ridge = 0.01 * covariance.diagonal()

    def loss(nodes):
        kept = torch.tensor(nodes)
        parts = recurrent_losses(covariance, kept, ridge[kept], recurrent, output)
        return sum(theta * float(part) for theta, part in zip(thetas, parts, strict=True))

    order = greedy_states(covariance, k, ridge, recurrent, output, thetas).tolist()
    for step in range(k):
        losses = {j: loss([*order[:step], j]) for j in range(7) if j not in order[:step]}
        assert losses[order[step]] <= min(losses.values()) * (1 + 1e-7) + 1e-12


def test_greedy_is_near_the_best_of_all_sets():
    covariance, recurrent, output = random_problem(3, m=8)
    ridge = torch.zeros(8, dtype=torch.float64)

    def loss(nodes):
        return float(sum(recurrent_losses(covariance, torch.tensor(nodes), None, recurrent, output))) / 3

    best = min(loss(list(nodes)) for nodes in itertools.combinations(range(8), 3))
    chosen = greedy_states(covariance, 3, ridge, recurrent, output, (1 / 3,) * 3).tolist()
    assert best - 1e-12 <= loss(chosen) <= 2 * best


def test_losses_are_mean_squared_errors_of_the_reconstruction():
    model, x = network(), sequences().inputs
    h = states(model, x).double().flatten(0, 1)
    covariance = h.T @ h / len(h)
    kept = torch.tensor([0, 3, 4, 8])
    recurrent, output = model.recurrent.weight.detach().double(), model.output.weight.detach().double()
    matrix = reconstruction_matrix(covariance, kept)
    rest = h - h[:, kept] @ matrix.T
    parts = recurrent_losses(covariance, kept, None, recurrent, output)
    expected = [rest, rest @ output.T, rest @ recurrent[kept].T]
    for part, each in zip(parts, expected, strict=True):
        assert float(part) == pytest.approx(float(each.square().sum(1).mean()), rel=1e-9)


@pytest.mark.parametrize("refit", [None, True])
@pytest.mark.parametrize("selection", [EverySecond(), SpectralSelection(lam=0), RecurrentSpectralSelection(lam=0)])
def test_a_duplicated_state_is_removed_exactly_for_every_step_and_new_data(selection, refit):
    model = duplicated().double()
    pruner = Pruner(selection, Explicit({"input": HIDDEN // 2}), LeastSquares(refit=refit))
    pruned = pruner.prune(model, double(sequences(400)), Budget("keep", 0.5)).model
    assert pruned.recurrent.weight.shape == (HIDDEN // 2, HIDDEN // 2)
    fresh = sequences(50, seed=5).inputs.double()
    for length in range(1, STEPS + 1):
        x = fresh[:, :length]
        assert torch.allclose(pruned(x), model(x), rtol=0, atol=1e-6)


def test_surgery_is_the_papers():
    model, seen = network(), sequences()
    pruned = Pruner(EverySecond(), Explicit({"input": 6}), LeastSquares()).prune(model, seen, Budget("keep", 0.5)).model
    kept = torch.arange(0, HIDDEN, 2)
    covariance = time_averaged_covariance(states(model, seen.inputs))
    weights = model.input.weight, model.input.bias, model.recurrent.weight.double(), model.output.weight.double()
    expected = pruned_elman(weights, kept, reconstruction_matrix(covariance, kept))
    found = pruned.input.weight, pruned.input.bias, pruned.recurrent.weight, pruned.output.weight
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    for part, other in zip(found[2:], expected[2:], strict=True):
        assert torch.allclose(part.double(), other, atol=1e-4)


def test_keeping_all_states_changes_nothing():
    model, seen = network(), sequences()
    kept = torch.arange(HIDDEN)
    matrix = reconstruction_matrix(time_averaged_covariance(states(model, seen.inputs)), kept)
    assert torch.allclose(matrix, torch.eye(HIDDEN, dtype=torch.float64), atol=1e-5)
    pruned = Pruner(RecurrentSpectralSelection()).prune(model, seen, Budget("keep", 1.0)).model
    assert torch.equal(pruned(seen.inputs), model(seen.inputs))


@pytest.mark.parametrize("selection", [RandomSelection(), MagnitudeSelection(), RecurrentSpectralSelection()])
@pytest.mark.parametrize("kind,value", [("compression", 3.0), ("speedup", 3.0)])
def test_budget_counts_every_step(selection, kind, value):
    model = network(40)
    for compensation in (Compensation(), LeastSquares()):
        pruned = Pruner(selection, compensation=compensation).prune(model, sequences(), Budget(kind, value))
        k = pruned.model.recurrent.in_features
        dense, left = ((WIDTH + 4) * m + m * m + m + 4 for m in (40, k))
        macs_dense, macs = (STEPS * WIDTH * m + (STEPS - 1) * m * m + 4 * m for m in (40, k))
        assert pruned.achieved["compression"] == pytest.approx(dense / left)
        assert pruned.achieved["speedup"] == pytest.approx(macs_dense / macs)
        assert pruned.achieved[kind] == pytest.approx(value, rel=0.1)


def test_report_has_the_three_losses():
    pruned = Pruner(RecurrentSpectralSelection(), compensation=LeastSquares()).prune(
        network(), sequences(), Budget("keep", 0.5)
    )
    [report] = pruned.layers
    for name in ("state_loss", "readout_loss", "next_state_loss"):
        assert 0 <= report[name] < 1
    assert report["state_loss"] == pytest.approx(report["input_loss"])


@pytest.mark.parametrize("thetas", [(0.5, 0.5), (0.5, 0.5, 0.5), (-0.5, 1, 0.5)])
def test_shares_that_do_not_sum_to_one_are_refused(thetas):
    with pytest.raises(BadInput, match="sum to 1"):
        RecurrentSpectralSelection(thetas)


def test_dead_states_are_left_out_and_bad_shapes_refused():
    model = network()
    with torch.no_grad():
        model.input.weight[3] = 0
        model.recurrent.weight[3] = 0
        model.input.bias[3] = -1
    pruned = Pruner(RecurrentSpectralSelection(), Explicit({"input": HIDDEN - 1}), LeastSquares()).prune(
        model, sequences(), Budget("keep", 0.9)
    )
    assert 3 not in pruned.kept["input"].tolist()
    with pytest.raises(BadInput, match="row_mnist"):
        ElmanRNN(8, shape=(1, 28, 28), classes=10)
