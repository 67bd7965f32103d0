"""What the chaos tests share: imports that forked runs have for nothing, and an undisturbed run."""

import importlib

import pytest
import torch
import warm
from sabotage import Run, board, compose, count_acts, records


@pytest.fixture(scope="package", autouse=True)
def imported(tmp_path_factory):
    """Everything that a run needs, imported, and its configurations, composed: forked runs have it for nothing."""
    for name in warm.IMPORTED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    compose(tmp_path_factory.mktemp("composed"))


@pytest.fixture(scope="package")
def reference(imported, tmp_path_factory):
    """The folder of an undisturbed run."""
    root = tmp_path_factory.mktemp("undisturbed")
    run = Run(root)
    assert run.run() == 0, run.output
    assert len(records(root)) == 4 and board(root)
    return root


@pytest.fixture(scope="package")
def how_many(imported, tmp_path_factory):
    """Changes of the file system in an undisturbed run."""
    return count_acts(tmp_path_factory.mktemp("counted"))
