"""The contract of layer kinds: matrix times patches plus bias is what the module returns; cutting, writing, sizes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from methods.network.kinds.base import Kind
from methods.network.kinds.convolution import CLASSES
from methods.network.kinds.grouped import cut_blocks, depthwise
from methods.network.kinds.registry import all_kinds, find_kind, kind_of
from methods.network.kinds.transposed_convolution import CLASSES as TRANSPOSED


class Conv1D(nn.Module):
    """Linear with a transposed weight, as in GPT-2."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf, generator=torch.Generator().manual_seed(3)))
        self.bias = nn.Parameter(torch.randn(nf, generator=torch.Generator().manual_seed(4)))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], self.nf)


class Scaled(nn.Linear):
    """Computes something of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def by_contract(kind: Kind, module: nn.Module, read: torch.Tensor) -> torch.Tensor:
    """(n, out, T) from matrix, patches and bias alone."""
    matrix, patches, groups = kind.matrix(module), kind.patches(module, read), kind.groups(module)
    n, _, positions = patches.shape
    patches = patches.reshape(n, groups, -1, positions)
    product = torch.einsum("god,ngdt->ngot", matrix.reshape(groups, -1, matrix[0].numel()), patches)
    bias = kind.bias(module)
    return product.flatten(1, 2) + (0 if bias is None else bias[:, None])


def assert_contract(module: nn.Module, read: torch.Tensor) -> None:
    module, read = module.double().requires_grad_(False), read.double()
    kind, written = kind_of(module), module(read)
    expected = kind.by_position(module, written)
    assert kind.units(module) == written.shape[kind.channel]
    assert kind.inputs(module) == read.shape[kind.channel]
    assert torch.allclose(by_contract(kind, module, read), expected, rtol=1e-10, atol=1e-10)
    if not isinstance(module, TRANSPOSED):  # of which most products are with zeros
        assert kind.positions(module, written) == len(read) * expected.shape[2]
    rows = kind.rows(module, read)
    assert torch.equal(rows, kind.patches(module, read).transpose(0, 1).reshape(len(rows), -1))
    alone = kind.compute(module, read, kind.matrix(module))
    bias = kind.bias(module)
    whole = kind.by_position(module, alone) + (0 if bias is None else bias[:, None])
    assert torch.allclose(whole, expected, rtol=1e-10, atol=1e-10)


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tokens", [(), (5,), (2, 3)])
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Linear(4, 6, bias=False), lambda: Conv1D(6, 4)])
def test_a_linear_layer_is_its_matrix_times_its_patches(make, tokens):
    torch.manual_seed(0)
    assert_contract(make(), seeded(3, *tokens, 4))


GEOMETRIES = list(
    itertools.product([1, 2, 3], [1, 2], ["zeros", "reflect", "replicate", "circular"], [1, 2], [0, 1, "same", "valid"])
)


@pytest.mark.parametrize(("dimensions", "groups", "mode", "dilation", "padding"), GEOMETRIES)
def test_a_convolution_is_its_matrix_times_its_patches(dimensions, groups, mode, dilation, padding):
    torch.manual_seed(0)
    for stride in [1] if padding == "same" else [1, 2]:
        made = CLASSES[dimensions - 1]
        module = made(4, 6, 3, stride, padding, dilation, groups, bias=stride == 1, padding_mode=mode)
        assert_contract(module, seeded(2, 4, *[7, 6, 8][:dimensions]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 2)), min_size=3, max_size=3), st.integers(0, 2**31),
)  # fmt: skip
def test_a_convolution_of_any_geometry_is_its_matrix_times_its_patches(
    dimensions, groups, inputs, outputs, geometry, seed
):
    torch.manual_seed(seed)
    kernel, stride, dilation, padding = (tuple(each[:dimensions]) for each in zip(*geometry, strict=True))
    made = CLASSES[dimensions - 1]
    module = made(groups * inputs, groups * outputs, kernel, stride, padding, dilation, groups)
    sizes = [apart * (size - 1) + 1 + extra for size, apart, extra in zip(kernel, dilation, (0, 2, 3), strict=False)]
    assert_contract(module, seeded(2, groups * inputs, *sizes, seed=seed))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=3),
    st.integers(0, 2**31),
)  # fmt: skip
def test_a_transposed_convolution_of_any_geometry_is_its_matrix_times_its_patches(
    dimensions, groups, inputs, outputs, bias, geometry, seed
):
    torch.manual_seed(seed)
    kernel, stride, dilation, padding, more = (tuple(each[:dimensions]) for each in zip(*geometry, strict=True))
    more = tuple(min(extra, max(one, other) - 1) for extra, one, other in zip(more, stride, dilation, strict=True))
    channels = groups * inputs, groups * outputs
    module = TRANSPOSED[dimensions - 1](*channels, kernel, stride, padding, more, groups, bias, dilation)
    read = seeded(2, channels[0], *[5, 6, 7][:dimensions], seed=seed)
    assert_contract(module, read)
    before, kind = module.weight.clone(), kind_of(module)
    matrix = kind.matrix(module).clone()
    module.weight.zero_()
    kind.write(module, matrix.flatten(1))
    assert torch.equal(module.weight, before)
    assert kind_of(module).positions(module, module(read.double())) == len(read) * read[0, 0].numel()


def test_patches_of_a_plane_are_those_of_unfold_bit_by_bit():
    module = nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    read = seeded(4, 3, 9, 8)
    expected = functional.unfold(read, module.kernel_size, module.dilation, module.padding, module.stride)
    patches = kind_of(module).patches(module, read)
    assert torch.equal(patches, expected) and patches.is_contiguous()


def test_a_module_with_a_forward_of_its_own_is_no_kind():
    assert find_kind(Scaled(3, 4)) is None
    assert find_kind(nn.ReLU()) is None
    assert find_kind(nn.Embedding(3, 4, max_norm=1.0)) is None  # it changes its table
    assert find_kind(nn.Bilinear(2, 3, 4)) is None
    with pytest.raises(TypeError, match="Scaled"):
        kind_of(Scaled(3, 4))


def test_a_subclass_that_leaves_forward_alone_is_of_the_kind():
    assert find_kind(type("Named", (nn.Linear,), {})(3, 4)) is find_kind(nn.Linear(3, 4))


def test_a_module_of_the_same_shape_that_computes_something_else_is_no_transposed_linear():
    class Lookalike(Conv1D):
        def forward(self, x):
            return x @ self.weight - self.bias

    assert find_kind(Lookalike(3, 4)) is None
    assert type(find_kind(Conv1D(3, 4))).__name__ == "TransposedLinear"


def test_kinds_do_not_overlap():
    plain = [made(2, 2, 1) for made in (*CLASSES, *TRANSPOSED)]
    for module in (nn.Linear(3, 3), Conv1D(3, 3), *plain):
        assert sum(kind.owns(module) for kind in all_kinds()) == 1


LAYERS = {
    "linear": (lambda: nn.Linear(6, 8), (3, 6)),
    "transposed": (lambda: Conv1D(8, 6), (3, 2, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, padding=1), (3, 6, 5)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False), (3, 6, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(6, 8, (1, 2, 3)), (3, 6, 2, 3, 4)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (3, 6, 5, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(6, 8, 3, 2, 1, 1), (3, 6, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(6, 8, (3, 2), 2, dilation=2, bias=False), (3, 6, 5, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(6, 8, 2), (3, 6, 2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_cutting_outputs_and_inputs_leaves_what_the_others_computed(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module, read = make(), seeded(*shape)
    kind = kind_of(module)
    gone_out, gone_in = torch.tensor([1, 3, 4, 6]), torch.tensor([0, 2, 3, 5])  # as many in each of two groups
    channel = kind.channel % read.ndim
    read = read.index_fill(channel, gone_in, 0)
    stays_out = torch.tensor([0, 2, 5, 7])
    with torch.no_grad():
        expected = module(read).index_select(kind.channel, stays_out)
        kind.cut_outputs(module, gone_out)
        kind.cut_inputs(module, gone_in)
        actual = module(read.index_select(channel, torch.tensor([1, 4])))
    assert torch.allclose(actual, expected, atol=1e-6)
    assert (kind.units(module), kind.inputs(module)) == (4, 2)
    sizes = {key: value for key, value in vars(module).items() if key in ("out_features", "out_channels", "nf")}
    assert set(sizes.values()) == {4}
    sizes = {key: value for key, value in vars(module).items() if key in ("in_features", "in_channels", "nx")}
    assert set(sizes.values()) == {2}


def test_a_grouped_convolution_loses_whole_groups():
    torch.manual_seed(0)
    module, read = nn.Conv2d(6, 9, 3, groups=3), seeded(2, 6, 5, 5)
    with torch.no_grad():
        expected = module(read)[:, [0, 1, 2, 6, 7, 8]]
        cut_blocks(module, torch.tensor([1]))
        assert torch.allclose(module(read[:, [0, 1, 4, 5]]), expected, atol=1e-6)
    assert (module.groups, module.in_channels, module.out_channels) == (2, 4, 6)


@pytest.mark.parametrize("side", ["cut_outputs", "cut_inputs"])
def test_a_grouped_convolution_does_not_lose_unevenly(side):
    module = nn.Conv2d(6, 8, 3, groups=2)
    with pytest.raises(ValueError, match="different numbers"):
        getattr(kind_of(module), side)(module, torch.tensor([0]))


@pytest.mark.parametrize("name", LAYERS)
def test_writing_a_matrix_gives_it_back(name):
    module = LAYERS[name][0]()
    kind = kind_of(module)
    matrix = kind.matrix(module).detach().clone()
    new = torch.arange(matrix.numel(), dtype=matrix.dtype).view_as(matrix)
    for shaped in (new, new.flatten(1)):
        kind.write(module, torch.zeros_like(shaped))
        kind.write(module, shaped)
        assert torch.equal(kind.matrix(module), new)


@pytest.mark.parametrize(
    "name", ["linear", "conv1d", "conv2d", "conv3d", "transposed1d", "transposed2d", "transposed3d"]
)
def test_a_new_module_of_the_kind_computes_what_the_old_one_does(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module, read = make().eval(), seeded(*shape)
    kind = kind_of(module)
    again = kind.like(module, kind.matrix(module), kind.bias(module))
    assert torch.equal(again(read), module(read)) and not again.training
    pointwise = torch.ones(3, 6, *[1] * (kind.matrix(module).ndim - 2))
    narrow = kind.like(module, pointwise, None, pointwise=True)
    assert torch.allclose(narrow(read), read.sum(kind.channel, keepdim=True).expand_as(narrow(read)), atol=1e-5)


def test_depthwise_convolutions_treat_every_channel_alone():
    assert depthwise(nn.Conv1d(4, 4, 3, groups=4)) and depthwise(nn.Conv3d(4, 4, 3, groups=4))
    assert not depthwise(nn.Conv2d(4, 8, 3, groups=4)) and not depthwise(nn.Conv2d(1, 1, 3))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_single_samples_are_those_of_autograd(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module, read = make().double(), seeded(*shape).double()
    kind = kind_of(module)
    slopes = seeded(*module(read).shape, seed=1).double()
    rows = []
    for sample, slope in zip(read, slopes, strict=True):
        (gradient,) = torch.autograd.grad((module(sample[None]) * slope).sum(), [module.weight])
        rows.append(kind.as_matrix(gradient).flatten())
    assert torch.allclose(kind.gradients(module, read, slopes), torch.stack(rows), atol=1e-12)


def test_a_mask_in_the_layout_of_the_matrix_is_stored_in_that_of_the_weight():
    module = Conv1D(3, 2)
    kind = kind_of(module)
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    stored = kind.stored_like(module, mask)
    assert stored.shape == module.weight.shape and torch.equal(kind.as_matrix(stored), mask)
