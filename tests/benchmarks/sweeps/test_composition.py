"""Composing a cell from parts gives what Hydra gives, and what is remembered is what words resolve to."""

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.settings.home import CONF, ROOT
from benchmarks.sweeps.composition import VERSION_BASE, Composer, plain
from benchmarks.sweeps.memory import from_outside
from benchmarks.sweeps.planning import make_plan
from benchmarks.sweeps.request import Request
from methods.errors import BadInput

COMPOSER = Composer(CONF)  # keeps what it has composed from example to example, as a sweep does


def hydras(words):
    """What ``hydra.compose`` gives for all words together; None where it refuses them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.resolve()), version_base=VERSION_BASE):
        try:
            return plain(compose(ROOT, list(words)))
        except Exception:
            return None


CHOICES = [
    "method=random",
    "method=dpp",
    "trainer=tiny",
    "dataset=mnist",
    "model=lenet5",
    "compensation=none",
    "~track",
]
VALUES = [
    *("seed=3", "seed=4", "++seed=5", "+seed=6", "~seed", "seed=null", "seed='7'", "seed=x", "save=true"),
    *("dataset.limit=9", "~dataset.levels", "dataset.name=y", "trainer.train.epochs=3", "model.widths=[3,4]"),
    *("budget.keep=0.5", "budget={keep: 0.4}", "selection=null", "selection._target_=a.B", "++own.key=[1,2]"),
    *("+own=1", "paths.cache=c", "calibration.samples=${seed}", "seed=${dataset.classes}", "budget=1", "modle.a=1"),
    *("trainer.finetune.epochs=2", "trainer.train.learning_rate=0.1", "model={name: z}", "paths.results=r"),
]


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(CHOICES), max_size=2), st.lists(st.sampled_from(VALUES), max_size=5), st.randoms())
def test_random_words_give_what_hydra_gives(choices, values, random):
    words = [*choices, *values]
    random.shuffle(words)
    expected = hydras(words)
    for _ in range(2):  # the second time from what the first one left
        if expected is None:
            with pytest.raises(BadInput):
                COMPOSER.cell(words)
        else:
            assert json.dumps(COMPOSER.cell(words)) == json.dumps(expected)


def seeds(words, tmp_path, folder=CONF):
    request = Request([*words, f"paths.results={tmp_path}", f"paths.cache={tmp_path}"], multirun=True)
    return [cell.seed for cell in make_plan(Composer(folder), request).cells]


def test_another_value_of_a_variable_is_another_cell(tmp_path, monkeypatch):
    for value in ("3", "4", "3"):
        monkeypatch.setenv("MYSEED", value)
        assert seeds(["seed=${oc.env:MYSEED}"], tmp_path) == [int(value)]


def test_another_value_of_a_variable_is_another_key(tmp_path, monkeypatch):
    keys = []
    for value in ("3", "4", "3"):
        monkeypatch.setenv("MYSEED", value)
        words = ["seed=${oc.env:MYSEED}", f"paths.results={tmp_path}", f"paths.cache={tmp_path}"]
        keys += [cell.key for cell in make_plan(Composer(CONF), Request(words)).cells]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.slow
def test_a_glob_over_a_group_is_all_of_its_choices(tmp_path):
    words = ["method=glob(l*)", f"paths.results={tmp_path}", f"paths.cache={tmp_path}"]
    plan = make_plan(Composer(CONF), Request(words, multirun=True))
    asked = [word for cell in plan.cells for word in cell.overrides if word.startswith("method=")]
    assert sorted(asked) == sorted(f"method={path.stem}" for path in (CONF / "method").glob("l*.yaml"))
    assert len(asked) > 3


def test_a_variable_that_a_file_refers_to_counts_too(tmp_path, monkeypatch):
    import shutil

    folder = shutil.copytree(CONF, tmp_path / "conf")
    text = (folder / "config.yaml").read_text()
    assert "\nseed: 0 " in text
    (folder / "config.yaml").write_text(text.replace("\nseed: 0 ", "\nseed: ${oc.env:MYSEED,5} "))
    monkeypatch.delenv("MYSEED", raising=False)
    assert seeds(["method=random"], tmp_path, folder) == [5]
    monkeypatch.setenv("MYSEED", "6")
    assert seeds(["method=random"], tmp_path, folder) == [6]


def test_what_looks_at_more_than_variables_is_not_remembered(monkeypatch):
    monkeypatch.setenv("ONE", "1")
    assert from_outside(["a=${oc.env:ONE}", "b=${seed}"]) == {"ONE": "1"}
    assert from_outside(["a='${oc.decode:${oc.env:ONE}}'"]) == {"ONE": "1"}
    assert from_outside(["a=${oc.env:NONE,2}"]) == {"NONE": None}
    for word in ("a=${now:%S}", "a=${hydra:job.num}", "a=${own:x}", "a=${oc.env:${b}}"):
        assert from_outside([word]) is None


@pytest.mark.parametrize("word", ["~seed", "~budget", "~dataset", "~paths", "~method.name"])
def test_what_every_cell_has_cannot_be_left_out(word, tmp_path):
    with pytest.raises(BadInput, match=word.lstrip("~").partition("=")[0]):
        seeds([word, "method=random"], tmp_path)


def test_a_sweep_of_nothing_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no value"):
        seeds(["method=glob(nothing*)"], tmp_path)
