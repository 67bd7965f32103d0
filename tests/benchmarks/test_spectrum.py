"""Spectra of dense networks: the numbers, and the picture and page that show them."""

import re
from itertools import pairwise

import pytest
import torch
from networks import NETWORKS, calibration, make

from benchmarks.reproductions.spectra import (
    default_widths,
    error_curve,
    layer_spectra,
    node_layers,
    outputs,
    rebuilt,
    spectrum,
)
from benchmarks.spectrum import main
from methods.allocation import Explicit
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput
from methods.pruner import Pruner
from methods.spectral.selection import SpectralSelection, reconstruction_matrix

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

DATA = calibration(96)


def test_spectrum_is_descending_and_relative():
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 5] = x[:, 4]
    values = spectrum(x.T @ x / 50)
    assert values[0] == 1 and bool((values.diff() <= 0).all()) and float(values[5]) < 1e-12
    assert bool((spectrum(torch.zeros(3, 3)) == 0).all())


@pytest.mark.parametrize("size", [1, 2, 3, 10, 300])
def test_widths_lie_inside_the_layer(size):
    widths = default_widths(size)
    assert widths == sorted(set(widths)) and all(1 <= width < size for width in widths)
    assert size < 2 or widths[-1] == size - 1
    assert default_widths(size, 0) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_one_layer_rebuilt_in_place_is_that_layer_pruned(name):
    model = make(name).double()
    data = type(DATA)(DATA.inputs.double(), DATA.labels, DATA.indices)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    selection = SpectralSelection()
    for layer in node_layers(model, data, residual=True):
        width = max(1, layer.size // 2)
        kept = selection.select(layer, width)
        matrix = reconstruction_matrix(layer.covariance, kept, selection.ridge(layer, kept))
        with rebuilt(model, layer, kept, matrix):
            found = outputs(model, data)
        allocation = Explicit({layer.name: width})
        pruner = Pruner(selection, allocation, LeastSquares(), prune_residual=True)
        pruned = pruner.prune(model, data, Budget("keep", 0.5)).model
        if len(layer.readers) == 1:  # with several, least squares fits each reader, here all share one matrix
            assert torch.allclose(found, outputs(pruned, data), atol=1e-8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_errors_fall_with_the_width_and_vanish_for_a_full_layer():
    model = make("chain").double()
    data = type(DATA)(DATA.inputs.double(), DATA.labels, DATA.indices)
    [first, _] = node_layers(model, data)
    reference = outputs(model, data)
    errors = error_curve(model, first, [2, 8, 16, 20], SpectralSelection(), data, reference)
    assert errors[2] > errors[8] > errors[16] > errors[20]
    assert errors[20] < 1e-9


def test_degrees_of_freedom_fall_with_lambda():
    for layer in layer_spectra(make("convolution"), DATA, widths={}):
        values = list(layer.degrees.values())
        assert all(0 <= after <= before <= layer.size for before, after in pairwise(values))
        assert layer.errors == {} and len(layer.eigenvalues) == layer.size


def test_the_command_writes_a_picture_and_a_page_that_loads_nothing(tmp_path, monkeypatch):
    words = ["dataset=digits", "model=mlp", "model.widths=[12,10]", "trainer.train.epochs=1", "calibration.samples=100"]
    out = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    assert main([*words, *out, "--widths", "3", "--samples", "40"]) == 0
    folder = tmp_path / "results" / "runs" / "spectra"
    [picture], [page] = folder.glob("*.png"), folder.glob("*.html")
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "fc1" in text and "fc2" in text and "test accuracy" in text
    loads = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert all(each.startswith("data:") for each in loads)


@pytest.mark.parametrize(
    "words,message",
    [
        (["method=random"], "method=random has no spectra"),
        (["--widths", "-1"], "--widths must be 0 or more"),
        (["dataset=digitz"], "unknown dataset"),
    ],
)
def test_bad_input_is_explained(words, message):
    with pytest.raises(BadInput, match=message):
        main(words)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("modle=mlp", "unknown key 'modle'"),
        ("selection.nrom=l1", "unknown key 'selection.nrom'"),
        ("budget.keep=2", "budget.keep"),
        ("seed=x", "seed=x is not a whole number"),
        ("seed=true", "seed=True is not a whole number"),
        ("seed=0,1", "several values"),
        ("seed=choice(x)", "seed=x is not a whole number"),
        ("budget.keep=0.1,0.2", "several values"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_any_work(tmp_path, word, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        main(["dataset=digits", f"paths.cache={tmp_path}/cache", f"--out={tmp_path}/out", word])
    assert not list(tmp_path.iterdir())
