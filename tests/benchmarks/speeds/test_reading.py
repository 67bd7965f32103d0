"""How much memory a training on streamed images takes with its workers; the speed command continues it to 200,000."""

import pytest

from benchmarks.speeds.data import images, resident, training_memory


@pytest.mark.slow
def test_training_on_streamed_images_takes_less_than_it_promises(tmp_path):
    """Decoded at 256 pixels, the 600 images would be 118 MB; what is there is mostly PyTorch."""
    source = images(tmp_path / "images", 600)
    assert 50 < resident() < 100_000, "the instrument works"
    assert 100 < training_memory(source, tmp_path / "cache", steps=3) < 1500
