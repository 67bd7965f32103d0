"""The page of all methods: up to date, whole, and true about what methods look at and whose they are."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import methods as command
from benchmarks.boards.labels import as_published, description, expense, reconstruction, unpublished
from benchmarks.cards import page
from benchmarks.cards.costs import Cost, known
from benchmarks.cards.needs import needs_of
from benchmarks.cards.page import card_of, markdown, needed, page_of
from benchmarks.cards.preset import Paper, method_names, paper_of
from methods import EdgeLayer, NodeLayer, Pruner, Selection
from methods.errors import BadInput
from methods.schedule import BeforeTraining, Iterative
from secateurs.presets import pruner_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
PRESETS = sorted((ROOT / "conf/method").glob("*.yaml"))


class LoudNodes(Selection[NodeLayer]):
    """Looks at activations alone."""

    def scores(self, layer):
        return layer.covariance.diagonal()


class LabelledNodes(Selection[NodeLayer]):
    """Looks at labels alone.

    Args:
        classes: how many
            there are.
    """

    def scores(self, layer):
        return torch.cos(layer.labels.double().sum() * torch.arange(layer.size))


class SteepEdges(Selection[EdgeLayer]):
    """Looks at gradients, and through them at data and labels."""

    def scores(self, layer):
        return layer.gradient.abs()


class FirstEdges(Selection[EdgeLayer]):
    """Looks at nothing."""

    def scores(self, layer):
        return -torch.arange(layer.size).double().view(layer.live.shape)


class ReportingNodes(Selection[NodeLayer]):
    """Looks at data for its report and not for its choice."""

    def scores(self, layer):
        return layer.incoming.square().sum(1)

    def report(self, layer, kept):
        return {"energy": float(layer.covariance.trace())}


@pytest.mark.slow
@pytest.mark.parametrize(
    "selection,data,labels,gradients",
    [
        (LoudNodes(), True, False, False),
        (LabelledNodes(), False, True, False),
        (SteepEdges(), True, True, True),
        (FirstEdges(), False, False, False),
        (ReportingNodes(), False, False, False),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Selection) else "",
)
def test_what_a_method_looks_at_is_seen(selection, data, labels, gradients):
    needs = needs_of(Pruner(selection))
    assert (needs.data, needs.labels, needs.gradients) == (data, labels, gradients)
    assert needs.training is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule,said",
    [
        (Iterative(3), "trains between its steps"),
        (Iterative(3, between=False), None),
        (Iterative(1, rewind="init"), "puts survivors back to their initial values and trains them in full"),
        (Iterative(2, rewind=4), "values after epoch 4 and trains them in full, after each of its steps"),
        (BeforeTraining(), "prunes the initialised network, then trains it in full"),
    ],
)
def test_the_training_of_a_method_is_seen(schedule, said):
    found = needs_of(Pruner(FirstEdges(), schedule=schedule)).training
    assert found == said if said is None else said in found


@pytest.mark.slow
@pytest.mark.parametrize(
    "method,said",
    [
        ("magnitude", "nothing but the network; no training of its own"),
        ("wanda", "data; no training of its own"),
        ("hrank", "data; no training of its own"),
        ("obs", "data, labels, gradients; no training of its own"),
        ("kron_obs", "data, gradients; no training of its own"),
        ("snip", "data, labels, gradients; prunes the initialised network, then trains it in full"),
        ("flat_minimum", "data, gradients; prunes while the network trains from scratch"),
    ],
)
def test_what_presets_need(method, said):
    assert needed(needs_of(pruner_of(method))) == said


def test_every_preset_has_a_card_and_a_line_in_a_table():
    names = [path.stem for path in PRESETS]
    assert method_names() == names
    assert sorted(re.findall(r"^### (\w+)$", PAGE, re.M)) == names
    assert sorted(re.findall(r"^\| \[(\w+)\]\(#\1\) \|", PAGE, re.M)) == names


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_page_has_what_the_preset_says(path):
    """Quick, without observing anything: words of the preset that a forgotten page would lack."""
    section = PAGE.partition(f"\n### {path.stem}\n")[2].partition("\n### ")[0]
    assert description(path.stem).split(". ")[0].rstrip(".") in section
    assert (as_published(path.stem) or "nothing else is noted").split(" (")[0] in section
    assert (reconstruction(path.stem) or "nothing is noted") in section
    for option in re.findall(r"^  (\w+): [^\s{]", path.read_text(encoding="utf-8"), re.M):
        assert option == "_target_" or f"`selection.{option}=" in section


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_card_names_a_paper_or_says_why_there_is_none(path):
    section = PAGE.partition(f"\n### {path.stem}\n")[2].partition("\n### ")[0]
    paper = re.search(r"^- \*\*Paper:\*\* (.+)$", section, re.M)[1]
    assert paper != "none is named"
    why = unpublished(path.stem)
    assert paper == f"none; {why}" if why else not paper.startswith("none")


@pytest.mark.slow
def test_a_card_says_why_a_method_takes_more_than_a_minute():
    long = [name for name, cost in known()[1].items() if cost.long]
    assert [name for name in long if not expense(name)] == []
    card = card_of("cbs")
    assert f"> 120 s ({expense('cbs')})" in markdown(replace(card, cost=Cost(120, more=True)))
    assert "Cost on ResNet-20:** 12 s\n" in markdown(replace(card, cost=Cost(12)))


@pytest.mark.slow
def test_where_there_are_no_tests_a_card_says_nothing_of_them(monkeypatch, tmp_path):
    assert "**Verified by:**" in markdown(card_of("random"))
    monkeypatch.setattr(page, "TESTS", tmp_path / "tests")
    assert "Verified by" not in markdown(card_of("random"))


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert page_of(method_names()) == PAGE, "docs/methods.md is out of date: python -m benchmarks.methods"


MODULE = """Something. A. Doe, R. Roe, "On things,
and others", 2020, arXiv 2001.00001.

Also Smith, "Another title" (arXiv 1901.00002), after Doe & Smith.

Poe et al. have doi:10.1000/182.
"""


@pytest.mark.parametrize(
    "said,paper",
    [
        (
            "Things go (Doe & Roe, ICML 2020).",
            Paper("Doe & Roe, ICML 2020", "On things, and others", "https://arxiv.org/abs/2001.00001"),
        ),
        (
            "As Smith et al. (2019) have it.",
            Paper("Smith et al., 2019", "Another title", "https://arxiv.org/abs/1901.00002"),
        ),
        (
            "Theory (a reconstruction; Poe, Roe & Doe, 2013).",
            Paper("Poe, Roe & Doe, 2013", None, "https://doi.org/10.1000/182"),
        ),
        ("Nowhere below (Moe et al., 2018).", Paper("Moe et al., 2018")),
        (
            "Here (Moe et al., 2018, arXiv 1801.00003).",
            Paper("Moe et al., 2018", None, "https://arxiv.org/abs/1801.00003"),
        ),
        (
            "There (Moe et al., 1989, https://example.org/moe).",
            Paper("Moe et al., 1989", None, "https://example.org/moe"),
        ),
        ("Random nodes of 2020.", None),
    ],
)
def test_a_paper_is_read_and_its_number_is_never_somebody_elses(said, paper):
    assert paper_of(said, MODULE) == paper


def test_a_card_has_options_with_defaults_and_meanings():
    card = card_of("spectral")
    text = markdown(card)
    assert "`selection.theta=0.5`: share of the input information loss" in text  # beside the option, in the preset
    assert "compensation `least_squares`" in text and "`compensation=as_published`" in text
    assert "https://arxiv.org/abs/1808.08558" in text
    training = replace(card.needs, training="trains from scratch")
    assert "trains: its cost is that of its training; choosing once takes" in markdown(replace(card, needs=training))
    assert "trains: its cost is that of its training\n" in markdown(replace(card, needs=training, cost=None))
    assert "**Verified by:** brute force: `tests/methods/spectral/" in text
    assert "**Claim:** better than thinet, after fine-tuning: " in text and "(arXiv 1808.08558v1, as tabulated" in text
    text = markdown(card_of("kron_obs"))
    assert "**Claim:** none that a board can look at: a step towards EigenDamage" in text
    assert "`selection.damping=0.001`: added to the Fisher" in text  # of the class that KronOBS refers to
    assert ":class:" not in text


@pytest.mark.parametrize(
    "words,said",
    [(["nope"], "unknown method 'nope'; choose from alps,"), (["lamp", "--check"], "--check is for the whole page")],
)
def test_what_the_command_refuses(words, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        command.main(words)


def test_cards_are_shown_and_a_page_of_other_presets_is_not_written(capsys, monkeypatch, tmp_path):
    assert command.main(["fpgm", "lamp"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("### fpgm\n") and "\n### lamp\n" in shown
    monkeypatch.setattr(command, "CONF", tmp_path)
    with pytest.raises(BadInput, match="the page is that of a clone"):
        command.main([])


@pytest.mark.slow
def test_check_says_whether_the_page_is_what_the_presets_give(capsys, monkeypatch, tmp_path):
    import benchmarks.cards.preset as presets

    written = tmp_path / "docs" / "methods.md"
    written.parent.mkdir()
    monkeypatch.setattr(presets, "method_names", lambda: ["fpgm", "lamp"])
    monkeypatch.setattr(command, "PAGE", written)
    assert command.main(["--check"]) == 1
    assert "python -m benchmarks.methods" in capsys.readouterr().out
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)
    monkeypatch.setattr(command, "CONF", tmp_path / "conf")
    assert command.main([]) == 0 and command.main(["--check"]) == 0
    written.write_text(written.read_text(encoding="utf-8").replace("lamp", "lump"), encoding="utf-8")
    assert command.main(["--check"]) == 1


@pytest.mark.slow
def test_the_command_ends_as_all_commands():
    words = [sys.executable, "-m", "benchmarks.methods", "nope"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.startswith("unknown method 'nope'") and done.stdout == ""
