"""Every test of this hall runs where ``pytest --device`` says, but for those marked ``cpu`` with a reason."""

import pytest


@pytest.fixture(autouse=True)
def _on_the_device(device):
    """All that prunes takes it; what these tests make is made there (tests/placing.py)."""
