"""Sizes on disk: zeros save nothing in a plain file, something in a sparse one, and removed units save most."""

import copy
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import make, noise, uniform
from safetensors.torch import load, save_file
from torch import nn

from benchmarks.measure import memory
from benchmarks.measure.size import decode, encode, measure_size
from benchmarks.models import MLP, build
from benchmarks.storage.checkpoint import to_bytes, unshared
from methods.errors import BadInput

pytestmark = pytest.mark.slow


@pytest.mark.cpu("what is read from a file is on the CPU")
@settings(deadline=None, max_examples=50)
@given(
    shape=st.lists(st.integers(1, 7), min_size=0, max_size=4),
    keep=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16]),
)
def test_the_sparse_encoding_can_be_undone(shape, keep, dtype):
    tensor = (noise(*shape) * 10 * (uniform(*shape) < keep)).to(dtype)
    encoded = encode({"layer.weight": tensor, "other": torch.ones(3)})
    stored = load(to_bytes(encoded))
    decoded = decode(stored)
    assert decoded.keys() == {"layer.weight", "other"}
    assert torch.equal(decoded["layer.weight"], tensor) and decoded["layer.weight"].dtype == dtype
    assert torch.equal(decoded["other"], torch.ones(3))


def test_plain_size_is_the_size_of_the_file(tmp_path):
    model = make("residual")
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    assert measure_size(model).bytes == (tmp_path / "plain.safetensors").stat().st_size


def test_masks_save_only_in_the_sparse_encoding():
    dense = MLP((150, 300), shape=(1, 8, 8), classes=10)
    masked = copy.deepcopy(dense)
    with torch.no_grad():
        for module in masked.modules():
            if isinstance(module, nn.Linear):
                module.weight *= uniform(*module.weight.shape) < 0.1
    smaller = MLP((40, 80), shape=(1, 8, 8), classes=10)
    sizes = {name: measure_size(m) for name, m in (("dense", dense), ("masked", masked), ("smaller", smaller))}
    assert sizes["masked"].bytes == sizes["dense"].bytes > sizes["smaller"].bytes
    assert sizes["dense"].encoded == sizes["dense"].bytes
    weights = sum(module.weight.numel() for module in dense.modules() if isinstance(module, nn.Linear))
    saved = sizes["dense"].bytes - sizes["masked"].encoded
    assert 0.9 * 0.9 * 4 * weights - weights / 8 < saved < 4 * weights
    assert sizes["masked"].compressed < sizes["masked"].encoded
    assert sizes["dense"].compressed == len(zlib.compress(to_bytes(dense.state_dict())))


def test_shared_tensors_are_stored_once():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    apart = measure_size(model)
    model[1].weight = model[0].weight
    assert unshared(model).keys() == {"0.weight", "0.bias", "1.bias"}
    assert apart.bytes - measure_size(model).bytes >= 4 * 900


def test_peak_memory_of_inference_grows_with_the_widths():
    """First convolution of a small ResNet: 64 x 32 x 32 activations per channel and tensor."""
    config = {"_target_": "benchmarks.models.ResNet", "depth": 8, "width": 1.0}
    peaks = {}
    for width in (1.0, 0.25):
        model = build(config | {"width": width}, (3, 32, 32), 10, seed=0)
        peaks[width], note = memory.inference_memory(model, config, (3, 32, 32), 10, batch=64)
        assert note is None
    one = 64 * 16 * 32 * 32 * 4 / 2**20  # a tensor of the widest stage, in megabytes; at least two live at once
    assert peaks[1.0] >= 2 * one
    assert peaks[0.25] <= 0.5 * peaks[1.0]


def test_a_child_that_fails_gives_a_reason_and_no_number():
    megabytes, note = memory.in_child({"what": "inference", "folder": "/nowhere", "batch": 1})
    assert megabytes is None and "no network in /nowhere" in note


@pytest.mark.cpu("memory of the process, not of a device")
def test_growth_sees_what_was_freed_again():
    def allocate():
        return torch.ones(8 * 2**20).sum()  # 32 MB, gone afterwards

    assert 30 <= memory.growth(allocate) <= 60
    assert memory.growth(lambda: None) < 5


@pytest.mark.parametrize("batch", [True, 0, "many", 2.5])
def test_nonsense_for_memory_is_refused(batch):
    with pytest.raises(BadInput, match=r"measure\.memory"):
        memory.check_memory({"measure": {"memory": batch}})
