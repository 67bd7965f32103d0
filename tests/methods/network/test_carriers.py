"""Carriers: after a cut one does to the rest what it did before, or what a fresh one of that size would do."""

import copy

import pytest
import torch
from torch import nn

from methods.network.kinds.carriers import CARRIERS, find_carrier


class OwnRMSNorm(nn.Module):
    """As libraries of language models write it."""

    def __init__(self, size: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.rand(size, generator=torch.Generator().manual_seed(1))), offset

    def forward(self, x):
        return (self.offset + self.weight) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def filled(module: nn.Module) -> nn.Module:
    """Every parameter and running statistic another number."""
    generator = torch.Generator().manual_seed(5)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    return module.eval()


EACH = {
    "batch1": (nn.BatchNorm1d(6), 1, 1),
    "batch2": (nn.BatchNorm2d(6), 2, 1),
    "batch3": (nn.BatchNorm3d(6), 3, 1),
    "batch_plain": (nn.BatchNorm2d(6, affine=False), 2, 1),
    "batch_blind": (nn.BatchNorm2d(6, track_running_stats=False), 2, 1),
    "instance": (nn.InstanceNorm2d(6), 2, 1),
    "instance_affine": (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), 2, 1),
    "slopes": (nn.PReLU(6), 2, 1),
    "slope": (nn.PReLU(), 2, 1),
    "depthwise1": (nn.Conv1d(6, 6, 3, groups=6), 1, 1),
    "depthwise2": (nn.Conv2d(6, 6, 3, groups=6, bias=False), 2, 1),
    "depthwise3": (nn.Conv3d(6, 6, 2, groups=6), 3, 1),
}


def reads(dimensions: int) -> torch.Tensor:
    return torch.randn(4, 6, *[5] * dimensions, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", EACH)
def test_channel_by_channel_a_cut_carrier_does_the_same_to_the_rest(name):
    module, dimensions, _ = EACH[name]
    module, read, stays = filled(copy.deepcopy(module)), reads(dimensions), [0, 2, 5]
    carrier = find_carrier(module)
    assert carrier is not None and not carrier.mixes(module) and carrier.channel(module) == 1
    with torch.no_grad():
        expected = module(read)[:, stays]
        carrier.cut(module, torch.tensor([1, 3, 4]))
        assert torch.allclose(module(read[:, stays]), expected, atol=1e-6)
    sizes = {k: v for k, v in vars(module).items() if k in ("num_features", "in_channels", "out_channels", "groups")}
    assert set(sizes.values()) <= {3}
    assert "num_features" in sizes or name.startswith(("slope", "depthwise"))


def part(tensor: torch.Tensor | None, stays: list[int]) -> torch.Tensor | None:
    return None if tensor is None else tensor[stays]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_over_the_last_dimension_sees_only_what_is_left(make, affine):
    module, stays = filled(make(6, elementwise_affine=affine)), [0, 2, 5]
    fresh = make(3, elementwise_affine=affine)
    for name, parameter in fresh.named_parameters():
        parameter.data = part(getattr(module, name).detach(), stays)
    carrier = find_carrier(module)
    assert carrier is not None and carrier.mixes(module) and carrier.channel(module) == -1
    carrier.cut(module, torch.tensor([1, 3, 4]))
    read = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(module(read), fresh(read)) and module.normalized_shape == (3,)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_an_rms_norm_of_ones_own_is_known_by_what_it_does(offset):
    module = OwnRMSNorm(6, offset)
    carrier = find_carrier(module)
    assert carrier is find_carrier(nn.RMSNorm(6))
    carrier.cut(module, torch.tensor([1, 3, 4]))
    assert module(torch.ones(2, 3)).shape == (2, 3)


def test_what_only_looks_like_an_rms_norm_is_none():
    class Scale(OwnRMSNorm):
        def forward(self, x):
            return x * self.weight

    assert find_carrier(Scale(6)) is None
    assert find_carrier(nn.ReLU()) is None
    assert find_carrier(nn.LayerNorm((4, 6))) is None


@pytest.mark.parametrize(("gone", "groups"), [([1, 2, 4], 3), ([2, 3], 2), ([0, 1, 4, 5], 1)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_group_norm_loses_whole_groups_or_as_many_of_each(gone, groups, affine):
    module = filled(nn.GroupNorm(3, 6, affine=affine))
    stays = [channel for channel in range(6) if channel not in gone]
    fresh = nn.GroupNorm(groups, len(stays), affine=affine)
    for name, parameter in fresh.named_parameters():
        parameter.data = part(getattr(module, name).detach(), stays)
    carrier = find_carrier(module)
    carrier.cut(module, torch.tensor(gone))
    read = torch.randn(2, len(stays), 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(module(read), fresh(read))


def test_a_group_norm_does_not_lose_unevenly():
    module = nn.GroupNorm(3, 6)
    with pytest.raises(ValueError, match="group norm"):
        find_carrier(module).cut(module, torch.tensor([1]))
    assert len(module.weight) == 6


def test_carriers_do_not_overlap():
    for module, _, _ in EACH.values():
        assert sum(carrier.owns(module) for carrier in CARRIERS) == 1
