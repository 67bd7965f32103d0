"""Every test of this room trains where ``pytest --device`` says."""

import pytest


@pytest.fixture(autouse=True)
def _on_the_accelerator(accelerator):
    """The trainer chooses a GPU by itself where there is one (``accelerator=auto``)."""
