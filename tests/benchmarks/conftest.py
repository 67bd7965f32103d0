"""What the tests of reproductions share."""

import os

import pytest

from benchmarks.reproductions import Workplace


@pytest.fixture(scope="session")
def decoded(tmp_path_factory):
    """A folder of decoded images for all tests and workers of a session: decoding takes longer than most of them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "decoded"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def workplace(tmp_path, decoded, accelerator):
    """An empty place for the quick version of a reproduction; only decoded images may be there already."""
    (tmp_path / "data").symlink_to(decoded, target_is_directory=True)
    return Workplace(tmp_path, tmp_path, tmp_path, quick=True)
