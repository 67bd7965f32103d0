"""What the tests of reproductions share."""

import os

import pytest

from benchmarks.reproductions import Outcome, Workplace, stored


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


@pytest.fixture
def drawn(tmp_path):
    """Stores an outcome under a reproduction's name and draws its figures; their files."""

    def draw(name: str, outcome: Outcome):
        folder = tmp_path / "drawn" / name
        folder.mkdir(parents=True)
        stored.write(outcome, folder)
        paths = stored.draw(folder)
        assert paths and all(path.stat().st_size > 1000 for path in paths)
        return paths

    return draw
