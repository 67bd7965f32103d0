"""Every test of this room trains where ``pytest --device`` says."""

import pytest


@pytest.fixture(autouse=True)
def _on_the_accelerator(accelerator):
    """Cells choose a GPU by themselves where there is one (``trainer.train.accelerator=auto``)."""
