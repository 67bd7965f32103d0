"""What presets have in common, so that a board compares methods and nothing else; and how to get what papers have."""

import json
from pathlib import Path

import pytest
from marks import slow_but_for

from benchmarks.cells.parts import build_pruner
from benchmarks.records.keys import canonical, dense_key
from benchmarks.records.names import with_todays
from benchmarks.reproductions import FINE_TUNING, Workplace, module_of
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.words import expand
from methods.budgets.budget import Budget

OLD = json.loads((Path(__file__).parents[2] / "golden" / "old_cells.json").read_text(encoding="utf-8"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
REPAIR = {"_target_": "methods.compensation.LeastSquares", "ridge": 1e-3, "intercept": None, "refit": True}
FAIR = {"include_start": True, "clip_norm": 1.0, "warmup_epochs": 0.5}
# Dense networks warm up for no epoch or a whole one, but for transformers on tokens: about a hundred steps of AdamW, or
# two dozen from pretrained weights, since a whole epoch would be a seventh or half of these short recipes.
OF_TOKENS = {"char_lm": 0.4, "text": 0.4, "tinyshakespeare": 0.4, "sentence_polarity": 0.1, "sentences": 0.1}


@pytest.fixture(scope="module")
def composed():
    composer = Composer(CONF)
    return lambda *words: composer.cell(list(words))


@pytest.fixture(scope="module")
def presets(composed):
    return {name: composed(f"method={name}") for name in METHODS}


def as_published(method):
    """The words that stand behind ``# As published:`` in the preset's file."""
    lines = (CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith("# As published:")] or [""]
    return line.removeprefix("# As published:").partition("(")[0].split()


@pytest.mark.slow
def test_dpp_spectral_and_thinet_differ_by_selection_alone(presets):
    rest = [
        {name: part for name, part in presets[method].items() if name not in ("method", "selection")}
        for method in ("dpp", "spectral", "thinet")
    ]
    assert rest[0] == rest[1] == rest[2]
    assert rest[0]["compensation"] == REPAIR
    assert len({json.dumps(presets[method]["selection"]) for method in ("dpp", "spectral", "thinet")}) == 3


@pytest.mark.slow
def test_least_squares_is_the_same_whoever_selects(presets, composed):
    used = {name: preset["compensation"] for name, preset in presets.items()}
    repaired = {name for name, part in used.items() if part["_target_"] == REPAIR["_target_"]}
    assert repaired >= {"spectral", "dpp", "thinet", "exact_obs", "dpp_edge", "spectral_rnn", "lq_greedy", "lq_lasso"}
    for name in repaired:
        assert used[name] == REPAIR
    for method in ("random", "magnitude_edge", "obs"):
        assert composed(f"method={method}", "compensation=least_squares")["compensation"] == REPAIR
    assert {name: used["spectral_domain"][name] for name in ("ridge", "refit")} == {"ridge": 1e-3, "refit": True}


@pytest.mark.slow
def test_a_ranking_of_the_whole_network_is_per_cost_where_scores_add_up_to_a_loss(presets, composed):
    """Others may rank as they are where that is the method's own rule (LAMP), but not the common baselines."""
    common = ("magnitude_edge", "lottery_ticket", "one_shot")
    ranking = {
        name: preset["allocation"]
        for name, preset in presets.items()
        if preset["allocation"]["_target_"] == "methods.allocation.Global"
        and (name in common or build_pruner(preset).selection.additive)
    }
    assert ranking.keys() >= {"obd", "obs", "wood_taylor", "magnitude_edge", "kron_obs", "kron_obd", "hap"}
    assert all(part["per_cost"] is True for part in ranking.values())
    assert composed("method=obd", "allocation=global")["allocation"]["per_cost"] is None


@pytest.mark.parametrize("trainer", slow_but_for(sorted(path.stem for path in (CONF / "trainer").glob("*.yaml"))))
def test_every_recipe_of_fine_tuning_can_keep_the_network_it_got(trainer, composed):
    found = composed(f"trainer={trainer}")["trainer"]
    assert {name: found["finetune"][name] for name in FAIR} == FAIR
    assert found["train"]["include_start"] is None
    warmups = [OF_TOKENS[trainer]] if trainer in OF_TOKENS else [0, 1]
    assert found["train"]["warmup_epochs"] in warmups


@pytest.mark.slow
def test_the_default_budget_means_the_same_for_nodes_and_edges(presets):
    assert {Budget.parse(preset["budget"]) for preset in presets.values()} == {Budget("compression", 4.0)}


@pytest.mark.parametrize("method", slow_but_for(METHODS))
def test_the_words_of_a_preset_lead_back_to_what_papers_have(method, composed):
    """Its repair and its allocation, as records have them that were made with the papers' settings."""
    words = as_published(method)
    found, preset = composed(f"method={method}", *words), composed(f"method={method}")
    for word in words:
        part = word.partition("=")[0].partition(".")[0]
        assert found[part] != preset[part], f"{word} changes nothing"
    if "compensation=as_published" in words:
        assert found["compensation"]["ridge"] is None
    if any(word.startswith("allocation=") for word in words):
        assert found["allocation"]["per_cost"] is None
    parts = ("allocation", "compensation")
    old = [with_todays(cell["config"]) for cell in OLD if cell["config"]["method"]["name"] == method]
    if old:
        assert canonical({name: found[name] for name in parts}) in [
            canonical({name: config[name] for name in parts}) for config in old
        ]


def test_dense_networks_are_those_of_old_records(composed):
    """Fine-tuning's defaults are its own: a dense network that is kept need not be trained again."""
    old = next(old["config"] for old in OLD if old["config"]["dataset"]["name"] == "digits")
    assert dense_key(composed(f"seed={old['seed']}")) == dense_key(old)


def test_reproductions_fine_tune_as_papers_do(tmp_path):
    old = next(old["config"] for old in OLD if old["config"]["dataset"]["name"] == "digits")
    config = Workplace(tmp_path).config(["trainer=digits"])
    assert canonical(config["trainer"]["finetune"]) | {"accelerator": None} == canonical(old["trainer"]["finetune"]) | {
        "accelerator": None,
        "devices": 1,
        "strategy": "auto",
    }
    assert Workplace(tmp_path).config(["trainer=row_mnist"])["trainer"]["finetune"]["clip_norm"] == 1.0


OF_PAPERS = [
    "spectral_lambda",
    "spectral_samples",
    "spectral_theta",
    "selection_x_compensation",
    "spectral_rnn",
    "kronecker_lenet300",
]


class Seen(Exception):
    """The words of a reproduction's first sweep."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_PAPERS)
def test_reproductions_have_the_papers_repair_and_allocation(name, tmp_path, monkeypatch, composed):
    def look(_, words):
        raise Seen(words)

    monkeypatch.setattr(Workplace, "cells", look)
    with pytest.raises(Seen) as seen:
        module_of(name).run(Workplace(tmp_path, quick=True))
    for words in expand([*FINE_TUNING, *seen.value.args[0]]):
        config = composed(*words)
        assert config["compensation"].get("ridge") is None
        assert config["allocation"].get("per_cost") is None
        assert config["trainer"]["finetune"]["include_start"] is None
