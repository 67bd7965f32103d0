"""One look per method: told apart in colour and without it, on white and on dark paper."""

import itertools

import pytest

from benchmarks.figures.looks import COLOURS, DARK_PAPER, MARKERS, ORDER, PAPER, PATHS, SHAPES, contrast, look
from benchmarks.settings.home import CONF

PRESETS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@pytest.mark.parametrize("paper", [PAPER, DARK_PAPER, "#f5f7f9", "#14171a"])
def test_every_colour_can_be_seen_on_every_paper(paper):
    assert min(contrast(colour, paper) for colour in COLOURS) >= 3


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


def test_the_suites_own_methods_are_told_apart_with_and_without_colour():
    assert set(PRESETS) <= set(ORDER), "give it a place in ORDER"
    assert len(set(ORDER)) == len(ORDER)
    for parts in (("colour", "shape"), ("shape", "dash")):
        seen = [tuple(getattr(look(name), part) for part in parts) for name in ORDER]
        assert len(set(seen)) == len(seen), parts


def test_settings_have_the_colour_and_symbol_of_their_method():
    own = look("spectral")
    for name in ("spectral (no compensation)", "spectral (theta 0.2) [finetune.epochs 3]", "spectral [limit 5]"):
        assert (look(name).colour, look(name).shape) == (own.colour, own.shape)
    assert len({look("spectral", variant).dash for variant in range(6)}) == 6


def test_a_method_of_somebody_elses_has_a_look_that_no_process_changes():
    assert look("my_own_method") == look("my_own_method (alpha 1)")
    assert (look("my_own_method").colour, look("my_own_method").shape) == ("#d84a4a", "triangle-left")
    assert {look(f"own {n}").colour for n in range(200)} == set(COLOURS)


def test_every_shape_has_a_marker_and_an_outline():
    assert set(MARKERS) == set(PATHS) == set(SHAPES)
    assert all(first != second for first, second in itertools.combinations(PATHS.values(), 2))
