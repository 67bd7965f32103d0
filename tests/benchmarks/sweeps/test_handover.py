"""What a sweep hands to the processes that it launches: words, from which the same cell arises there."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.records.keys import cell_key
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.planning import make_plan
from benchmarks.sweeps.request import Request

pytestmark = pytest.mark.slow

COMPOSER = Composer(CONF)
SWEPT = {
    "method": ["spectral", "random", "dpp,magnitude"],
    "seed": ["3", "0,1", "range(2,4)"],
    "budget.keep": ["0.5", "0.25,0.75"],
    "compensation": ["none", "least_squares,none"],
    "calibration.samples": ["64", "100", "null"],
    "trainer.train.learning_rate": ["0.1", "1e-3,0.5"],
    "dataset.limit": ["300", "null"],
    "save": ["true", "false"],
    "model.widths": ["[12,8]", "[20]"],
    "++model.note": ["'a, b = c'", '"quoted \\"word\\""', "'100%'", "'${seed}'"],
}


@st.composite
def requests(draw):
    keys = draw(st.lists(st.sampled_from(sorted(SWEPT)), unique=True, max_size=4))
    return [f"{key}={draw(st.sampled_from(SWEPT[key]))}" for key in keys]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=requests())
def test_a_launched_process_makes_the_planned_cell_of_its_words(words, tmp_path):
    folders = [f"paths.results={tmp_path}/r", f"paths.cache={tmp_path}/c"]
    plan = make_plan(COMPOSER, Request([*words, *folders], multirun=True))
    assert plan.cells
    for cell in plan.cells:
        config = Composer(CONF).cell(list(cell.overrides))  # a process that has composed nothing yet
        assert cell_key(config) == cell.key
        assert (config["seed"], config["method"]["name"]) == (cell.seed, cell.method)
        assert config["paths"]["results"] == f"{tmp_path}/r"
        assert json.dumps(config) == json.dumps(COMPOSER.cell(list(cell.overrides)))
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
