"""What holds for every test."""

import pytest
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture(autouse=True)
def _hydra_of_its_own():
    """Hydra keeps one configuration per process; no test inherits that of the one before."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
