import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from methods.curvature.hessian import HessianProduct, hutchinson_diagonal, spectral_radius, spectral_radius_gradient
from methods.errors import BadInput
from methods.layers.gradients import (
    GIB,
    Samples,
    collect_gradients,
    draw_labels,
    fisher_diagonal,
    per_sample_gradients,
    sample_losses,
)
from methods.layers.statistics import Calibration
from methods.seeds import stream


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Convolutional(nn.Module):
    """Strides, groups, dilation, padding of several kinds, an in-place activation, batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, (3, 2), groups=2, padding="same", padding_mode="reflect", bias=False)
        self.dilated = nn.Conv2d(6, 3, 2, dilation=2)
        self.active = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        x = self.active(self.norm(self.first(x)))
        x = self.active(self.dilated(self.active(self.grouped(x))))
        return self.last(self.drop(x.flatten(1)))


class Tokens(nn.Module):
    """A linear layer on several positions per sample."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.embed(x).tanh().mean(1))


class Shared(nn.Module):
    """One linear layer used twice: no fast way."""

    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.body(self.body(x).tanh()).tanh())


CASES = {
    "convolutional": (Convolutional, ["first", "grouped", "dilated", "last"], (2, 8, 8)),
    "tokens": (Tokens, ["embed", "last"], (5, 3)),
    "shared": (Shared, ["body", "last"], (4,)),
}


def network(case, samples=7):
    kind, names, shape = CASES[case]
    torch.manual_seed(1)
    model = kind().double()
    inputs = torch.randn(samples, *shape, dtype=torch.float64, generator=generator())
    labels = torch.randint(3, (samples,), generator=generator())
    for _ in range(3):
        model(inputs)  # batch norm gets statistics of its own
    return model, names, inputs, labels


def one_by_one(model, names, inputs, labels):
    """Oracle: one backward pass per sample."""
    model.eval()
    rows = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        sample_losses(model(x[None]), y[None]).sum().backward()
        rows.append(torch.cat([model.get_submodule(name).weight.grad.flatten() for name in names]))
    model.zero_grad()
    return torch.stack(rows)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_one_backward_pass_per_sample(case):
    model, names, inputs, labels = network(case)
    expected = one_by_one(model, names, inputs, labels)
    actual = torch.cat(per_sample_gradients(model, names, inputs, labels), 1)
    torch.testing.assert_close(actual, expected)


def test_gradients_of_frozen_weights_are_the_same():
    model, names, inputs, labels = network("convolutional")
    expected = one_by_one(model, names, inputs, labels)
    model.requires_grad_(False)
    torch.testing.assert_close(torch.cat(per_sample_gradients(model, names, inputs, labels), 1), expected)


def test_regression_uses_half_squared_errors():
    model, names, inputs, _ = network("tokens")
    targets = torch.randn(7, 3, dtype=torch.float64, generator=generator())
    mean = torch.cat(per_sample_gradients(model, names, inputs, targets), 1).mean(0)
    loss = 0.5 * (model(inputs) - targets).square().sum(1).mean()
    expected = torch.autograd.grad(loss, [model.get_submodule(name).weight for name in names])
    torch.testing.assert_close(mean, torch.cat([part.flatten() for part in expected]))


def test_collecting_does_not_depend_on_the_chunks_and_leaves_the_model_alone():
    model, names, inputs, labels = network("convolutional", samples=20)
    model.train()
    model.drop.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibration = Calibration(inputs, labels, torch.arange(20), seed=3)
    whole = collect_gradients(model, names, calibration, Samples(labels="sampled"))
    size = sum(model.get_submodule(name).weight.numel() for name in names)
    # room for the result and little else
    tight = Samples(labels="sampled", memory_gb=(20 * size * 12 + 16 * 400 + 60_000) / GIB)
    torch.testing.assert_close(collect_gradients(model, names, calibration, tight).matrix, whole.matrix)
    assert model.training and model.norm.training and not model.drop.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(whole.of("dilated"), whole.matrix[:, whole.columns["dilated"]])


def test_as_many_samples_at_once_as_the_memory_allows_and_not_one_more(capsys):
    model, names, inputs, labels = network("convolutional", samples=4)
    calibration = Calibration(inputs, labels, torch.arange(4), seed=3)
    with pytest.raises(BadInput, match="need") as refused:
        collect_gradients(model, names, calibration, Samples(memory_gb=1e-9))
    for_one = float(re.search(r"need ([\d.e-]+) GiB", str(refused.value)).group(1))
    collect_gradients(model, names, calibration, Samples(memory_gb=1.01 * for_one))
    assert "in chunks of 1 samples" in capsys.readouterr().err


def test_weights_pruned_earlier_have_zero_gradients():
    model, names, inputs, labels = network("tokens")
    live = {name: torch.rand(model.get_submodule(name).weight.shape, generator=generator()) < 0.5 for name in names}
    calibration = Calibration(inputs, labels, torch.arange(7))
    masked = collect_gradients(model, names, calibration, Samples(), live)
    plain = collect_gradients(model, names, calibration, Samples())
    for name in names:
        torch.testing.assert_close(masked.of(name), plain.of(name) * live[name].flatten())


def test_a_bound_that_is_too_small_is_refused_before_any_work(monkeypatch):
    model, names, inputs, labels = network("tokens")
    calibration = Calibration(inputs, labels, torch.arange(7))
    monkeypatch.setattr("methods.layers.gradients.per_sample_gradients", lambda *_: pytest.fail("work was started"))
    with pytest.raises(BadInput, match="memory_gb"):
        collect_gradients(model, names, calibration, Samples(memory_gb=1e-6))
    with pytest.raises(BadInput, match="8 gradients were asked for"):
        collect_gradients(model, names, calibration, Samples(samples=8))


def test_labels_as_the_command_line_parses_them():
    assert Samples(labels=True) == Samples(labels="true")
    with pytest.raises(BadInput, match="choose true"):
        Samples(labels="model")


def test_the_estimate_is_announced(capsys):
    model, names, inputs, labels = network("tokens")
    collect_gradients(model, names, Calibration(inputs, labels, torch.arange(7)), Samples(samples=5))
    assert "5 gradients of 24 weights (true labels)" in capsys.readouterr().err


@pytest.mark.parametrize("chunk_bytes", [20_000, 10**9])
def test_the_diagonal_is_the_mean_of_squares_over_all_chunks(chunk_bytes):
    model, names, inputs, labels = network("convolutional", samples=20)
    calibration = Calibration(inputs, labels, torch.arange(20))
    expected = one_by_one(model, names, inputs, labels).square().mean(0)
    actual = fisher_diagonal(model, names, calibration, Samples(memory_gb=chunk_bytes / GIB))
    torch.testing.assert_close(torch.cat([actual[name].flatten() for name in names]), expected)
    assert actual["first"].shape == (4, 18)


def test_sampled_labels_follow_the_networks_distribution():
    model = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0], [2.0]]))
    inputs = torch.ones(30_000, 1)
    labels = draw_labels(model, inputs, torch.zeros(30_000, dtype=torch.long), stream(0, "t"), 1000)
    expected = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    frequency = torch.bincount(labels, minlength=3) / 30_000
    assert ((frequency - expected).abs() < 4 * (expected * (1 - expected) / 30_000).sqrt()).all()
    numbers = draw_labels(model, inputs[:9000], torch.zeros(9000, 3), stream(0, "t"), 1000)
    assert numbers.shape == (9000, 3) and abs(float(numbers[:, 2].var()) - 1) < 0.1


def test_sampled_labels_estimate_the_gauss_newton_matrix():
    """For softmax regression the Gauss-Newton matrix is the Hessian itself."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False).double()
    inputs = torch.randn(4, 3, dtype=torch.float64)
    repeated = Calibration(inputs.repeat(5000, 1), torch.zeros(20_000, dtype=torch.long), torch.arange(20_000))
    h = fisher_diagonal(model, [""], repeated, Samples(labels="sampled"))[""]
    labels = torch.zeros(4, dtype=torch.long)
    exact = hessian(
        lambda w: sample_losses(functional_call(model, {"weight": w}, (inputs,)), labels).mean(), model.weight.detach()
    )
    torch.testing.assert_close(h.flatten(), exact.reshape(9, 9).diagonal(), rtol=0.1, atol=0.005)


# --- Hessian products -------------------------------------------------------------------------------------------------


def small_loss():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, labels = torch.randn(10, 3, dtype=torch.float64), torch.randint(3, (10,))
    parameters = list(model.parameters())

    def of(flat):
        parts = flat.split([parameter.numel() for parameter in parameters])
        named = {n: part.view_as(p) for (n, p), part in zip(model.named_parameters(), parts, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, named, (inputs,)), labels)

    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    return nn.functional.cross_entropy(model(inputs), labels), parameters, hessian(of, flat)


def test_products_equal_the_explicit_hessian():
    loss, parameters, explicit = small_loss()
    product = HessianProduct(loss, parameters)
    for seed in range(3):  # the graph is reused
        v = torch.randn(product.size, dtype=torch.float64, generator=generator(seed))
        torch.testing.assert_close(product(v), explicit @ v)


def test_a_linear_loss_has_no_curvature():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    product = HessianProduct(w.sum(), [w])
    assert torch.equal(product(torch.ones(3, dtype=torch.float64)), torch.zeros(3, dtype=torch.float64))
    radius = spectral_radius(product, torch.ones(3, dtype=torch.float64))
    assert radius.value == 0 and radius.converged


def test_radius_of_a_network_and_warm_start():
    loss, parameters, explicit = small_loss()
    product = HessianProduct(loss, parameters)
    values = torch.linalg.eigvalsh(explicit)
    cold = spectral_radius(product, torch.ones(product.size, dtype=torch.float64), tolerance=1e-4)
    torch.testing.assert_close(cold.value, float(values.abs().max()), rtol=1e-4, atol=0)
    warm = spectral_radius(product, cold.vector, tolerance=1e-4)
    assert warm.converged and warm.products < cold.products
    torch.testing.assert_close(warm.value, cold.value, rtol=1e-4, atol=0)


def test_negative_dominating_eigenvalue():
    x = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    product = HessianProduct(-3 * x[0] ** 2 + x[1] ** 2, [x])
    radius = spectral_radius(product, torch.ones(2, dtype=torch.float64), tolerance=1e-8)
    assert radius.converged
    torch.testing.assert_close(radius.value, 6.0)
    torch.testing.assert_close(radius.eigenvalue, -6.0)
    torch.testing.assert_close(radius.vector.abs(), torch.tensor([1.0, 0.0], dtype=torch.float64))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_radius_of_random_symmetric_matrices(seed, size, mirrored):
    values = torch.randn(size, dtype=torch.float64, generator=generator(seed))
    if mirrored and size > 1:  # +rho and -rho both dominate: v itself never settles
        values[0], values[1] = 4.0, -4.0
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator(seed + 1))).Q
    matrix = basis @ torch.diag(values) @ basis.T
    start = torch.randn(size, dtype=torch.float64, generator=generator(seed + 2))
    radius = spectral_radius(lambda v: matrix @ v, start, tolerance=1e-5, max_products=100_000)
    assert radius.converged
    torch.testing.assert_close(radius.value, float(values.abs().max()), rtol=1e-4, atol=1e-12)
    residual = matrix @ radius.vector - radius.eigenvalue * radius.vector
    assert float(residual.norm()) <= 1e-4 * radius.value


def test_giving_up_says_so():
    matrix = torch.diag(torch.tensor([1.0, 0.999], dtype=torch.float64))
    radius = spectral_radius(lambda v: matrix @ v, torch.ones(2, dtype=torch.float64), tolerance=1e-9, max_products=5)
    assert not radius.converged and radius.products == 5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_radius_gradient_equals_finite_differences(sign):
    def loss_at(w):
        return sign * ((w[0] * w[1]).sin() * w[2] ** 2 + 3 * w[0] ** 4 + w[1] ** 2 * w[2])

    def radius_at(w):
        return torch.linalg.eigvalsh(hessian(loss_at, w)).abs().max()

    w = torch.tensor([0.7, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    product = HessianProduct(loss_at(w), [w])
    radius = spectral_radius(product, torch.ones(3, dtype=torch.float64), tolerance=1e-10)
    assert radius.eigenvalue * sign > 0
    (actual,) = spectral_radius_gradient(product, radius)
    step, centre = 1e-5, w.detach()
    expected = torch.stack(
        [(radius_at(centre + step * e) - radius_at(centre - step * e)) / (2 * step) for e in torch.eye(3).double()]
    )
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_hutchinson_traces_of_blocks():
    matrix = torch.randn(12, 12, dtype=torch.float64, generator=generator())
    matrix = matrix + matrix.T
    probes = 4000
    estimate = hutchinson_diagonal(lambda v: matrix @ v, matrix[0], probes, generator(1))
    # the variance of z_i (H z)_i is the sum of the squares of the row's other entries
    error = ((matrix.square().sum(1) - matrix.diagonal().square()) / probes).sqrt()
    assert ((estimate - matrix.diagonal()).abs() < 5 * error).all()
    block = matrix[:5, :5]
    inside = 2 * (block.square().sum() - block.diagonal().square().sum())
    outside = matrix[:5, 5:].square().sum()
    assert abs(estimate[:5].sum() - block.trace()) < 4 * ((inside + outside) / probes).sqrt()


def test_hutchinson_is_exact_for_diagonal_matrices_and_refuses_no_probes():
    diagonal = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert torch.equal(hutchinson_diagonal(lambda v: diagonal * v, diagonal, 1, generator()), diagonal)
    with pytest.raises(BadInput):
        hutchinson_diagonal(lambda v: v, diagonal, 0, generator())
