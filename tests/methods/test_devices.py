"""Networks on a device stay there, and what is pruned, counted and repaired is what the CPU gives.

``pytest --device cuda`` runs this and the conformance of every method on a GPU; here a device is emulated whose tensors
compute on the CPU and refuse to be mixed with the CPU's, in processes of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, calibration, make, noise, placed
from test_conformance import EXACT, METHODS, ONLY, pruner, unit

from benchmarks.measure.count import count
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import Skipped
from methods.pruner import Pruner
from secateurs.examples import BLOCKS
from secateurs.presets import pruner_of

ROOT = Path(__file__).parents[2]
SUITED = {"block": BLOCKS, "exact": "chain"}  # by unit; networks that methods of these do not refuse


CPU = torch.device("cpu")


def on(device, n=64):
    return placed(calibration(n), device)


def assert_alike(there, here):
    """Kept the same units, and the same weights but for rounding."""
    assert {name: nodes.tolist() for name, nodes in there.kept.items()} == {
        name: nodes.tolist() for name, nodes in here.kept.items()
    }
    for (name, found), expected in zip(there.model.named_parameters(), here.model.parameters(), strict=True):
        torch.testing.assert_close(found.detach().cpu(), expected.detach(), rtol=1e-3, atol=1e-4, msg=name)


def suited(method):
    """A network that the method prunes: the convolutions where it takes them."""
    model = make(SUITED.get(unit(method)) or ONLY.get(method, ("convolution",))[0])
    if method in EXACT:  # which removes only what is without effect
        with torch.no_grad():
            model[1].bias[:5] = -100
    return model


def parts(method):
    """The method; exact compression for the samples alone, which are no pixels."""
    return pruner_of(method, overrides=["selection.scope=calibration"]) if method in EXACT else pruner(method)


# Greedy choices among nearly equal scores may differ where sums are rounded otherwise; the emulated device does not.
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_prunes_where_the_network_is_as_it_does_on_the_cpu(method, device):
    try:
        there = parts(method).prune(suited(method).to(device), on(device), Budget("keep", 0.5))
    except Skipped as reason:
        assert method == "torch_pruning" and device.type == "emulated", reason  # a library that copies storages
        return
    assert {parameter.device.type for parameter in there.model.parameters()} == {device.type}
    here = parts(method).prune(suited(method).cpu(), on(CPU), Budget("keep", 0.5))
    assert there.achieved == here.achieved and any(row["kept"] < row["units"] for row in here.layers)
    assert_alike(there, here)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["keep", "speedup"])
def test_whole_model_budgets_and_repairs_on_a_device(network, kind, device):
    value = {"keep": 0.5, "speedup": 1.5}[kind]
    method = Pruner(pruner("magnitude").selection, compensation=LeastSquares())
    there = method.prune(make(network).to(device), on(device), Budget(kind, value))
    here = method.prune(make(network).cpu(), on(CPU), Budget(kind, value))
    assert there.achieved == here.achieved
    assert_alike(there, here)


@pytest.mark.parametrize("network", NETWORKS)
def test_counts_are_those_of_the_cpu(network, device):
    example = noise(1, 1, 8, 8)
    assert count(make(network).to(device), example.to(device)) == count(make(network).cpu(), example.cpu())


@pytest.mark.slow
def test_nothing_is_left_behind_on_the_cpu():
    """Some of the quick tests, where a device is emulated; ``pytest --device emulated`` runs them all."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--device", "emulated"]
    names = ("devices", "conformance", "allocation", "parts_fitting", "foretold")
    files = [*(f"tests/methods/test_{name}.py" for name in names), "-m", "not slow"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.slow
def test_a_tensor_that_is_left_behind_is_noticed():
    """On the emulated device: the check that the check can fail."""
    code = (
        "import torch, emulated; emulated.install(); there = torch.ones(3).to('emulated')\n"
        "assert (there + there).cpu().tolist() == [2, 2, 2] and str((there * 2).device) == 'emulated:0'\n"
        "there + torch.ones(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "expected all tensors on one device" in done.stderr, done.stderr
