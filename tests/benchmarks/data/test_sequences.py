"""Images as sequences, and the recurrent network that reads them."""

import pytest
import torch
from networks import noise

from benchmarks.data import readers
from benchmarks.data.readers import Raw, image_sequences
from benchmarks.models import build
from methods.errors import BadInput


@pytest.fixture
def pictures(monkeypatch):
    """Four images of 1x4x6 whose pixels are numbered."""
    images = torch.arange(4 * 24, dtype=torch.uint8).reshape(4, 1, 4, 6)
    asked = {}

    def read(cfg, cache):
        asked.update(cfg)
        return Raw(images[:3], torch.arange(3), images[3:], torch.arange(1), "somewhere", "sum")

    monkeypatch.setattr(readers, "images", read)
    return images, asked


def settings(**own):
    return {"name": "rows", "images": "mnist", "image_shape": [1, 4, 6], "pool": 1, "shape": [4, 6]} | own


def test_rows_are_steps(pictures, tmp_path):
    images, asked = pictures
    raw = image_sequences(settings(), tmp_path)
    assert asked["name"] == "mnist" and asked["shape"] == [1, 4, 6]
    assert torch.equal(raw.train_inputs, images[:3, 0]) and torch.equal(raw.test_inputs, images[3:, 0])
    assert torch.equal(raw.train_targets, torch.arange(3)) and raw.train_inputs.dtype == torch.uint8


def test_pixels_are_averaged_over_squares_and_read_row_by_row(pictures, tmp_path):
    images, _ = pictures
    raw = image_sequences(settings(pool=2, shape=[6, 1]), tmp_path)
    expected = images[:3, 0].float().reshape(3, 2, 2, 3, 2).mean((2, 4)).round().reshape(3, 6, 1)
    assert torch.equal(raw.train_inputs.float(), expected)


@pytest.mark.parametrize("own", [{"shape": [5, 5]}, {"pool": 0}, {"pool": 4, "shape": [1, 1]}, {"pool": 3}])
def test_shapes_that_do_not_fit_are_refused(own, pictures, tmp_path):
    with pytest.raises(BadInput, match=r"dataset.pool=.*do not fit"):
        image_sequences(settings(**own), tmp_path)


def test_the_irnn_is_built_by_its_configuration():
    model = build({"_target_": "benchmarks.models.ElmanRNN", "name": "irnn", "hidden": 7}, (4, 6), 10, 0)
    assert model(noise(2, 4, 6)).shape == (2, 10)
    assert torch.equal(model.recurrent.weight, torch.eye(7))
    with pytest.raises(BadInput, match="row_mnist"):
        build({"_target_": "benchmarks.models.ElmanRNN", "name": "irnn"}, (1, 8, 8), 10, 0)
