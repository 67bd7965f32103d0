"""The rules of the house are kept by every figure, because a sheet that breaks one is not written."""

import re
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.figures.files import DPI
from benchmarks.figures.labels import spread_out
from benchmarks.figures.looks import COLOURS, ORDER, look, together
from benchmarks.figures.panel import LINES, nth
from benchmarks.figures.sheet import ENTRIES, Sheet, Sign


def sheet(title="Five falls to one", lines=2, words=("size", "error, %"), key=()):
    made = Sheet(title, key=key, height=1.8)
    panel = made.panel(title="one panel")
    for number in range(lines):
        panel.line([1, 2, 3], [5 + number, 3, 1], nth(number), f"line {number}", [1, 0.5, 2])
    panel.level(4, "dense 4 %")
    panel.label(*words, bounds=(0, 100))
    return made


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ({"title": " "}, "it has no title"),
        ({"lines": LINES + 1}, "9 lines, more than 8"),
        ({"lines": 0}, "nothing is drawn"),
        ({"words": ("size", "")}, "an axis has no words"),
        ({"words": ("", "error")}, "an axis has no words"),
        ({"key": [Sign("a")] * (ENTRIES + 1)}, "its key has 6 entries, more than 5"),
    ],
)
def test_a_figure_that_breaks_a_rule_is_not_written(tmp_path, broken, rule):
    with pytest.raises(ValueError, match=rule):
        sheet(**broken).save(tmp_path, "broken")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [{"title": "W" * 90}, {"words": ("x" * 150, "error")}, {"words": ("size", "y" * 60)}])
def test_a_title_or_a_word_on_an_axis_that_does_not_fit_is_not_cut_but_seen(tmp_path, cut):
    with pytest.raises(ValueError, match="is cut off"):
        sheet(**cut).save(tmp_path, "cut")
    assert not list(tmp_path.iterdir())


def test_texts_that_lie_over_each_other_are_seen():
    made = sheet()
    made.panels[0][0].note(2, 2, "here")
    made.panels[0][0].note(2, 2, "there")
    with pytest.raises(ValueError, match="'here' lies over 'there'"):
        made.finish()


def test_an_error_bar_that_leaves_the_axes_is_seen():
    made = sheet(lines=1)
    made.panels[0][0].axes.set_ylim(0, 5)
    with pytest.raises(ValueError, match="an error bar leaves the axes"):
        made.finish()


def test_ticks_whose_numbers_touch_are_seen():
    made = sheet(lines=1)
    made.panels[0][0].ticks("x", [1, 1.02, 3], ["one", "two", "three"])
    with pytest.raises(ValueError, match="the ticks 'one' and 'two' touch"):
        made.finish()


@pytest.mark.parametrize("which", ["x", "y"])
def test_logarithmic_axes_have_at_least_two_numbers_and_room_between_them(which):
    spans = [(0.005, 0.4), (1000, 60_000), (3, 9), (1e-7, 1e3), (0.002, 70), (20, 24)]
    made = Sheet("Spans", rows=2, columns=3, height=1.1)
    for number, span in enumerate(spans):
        panel = made.panel(*divmod(number, 3))
        panel.line(*([span, (1, 2)] if which == "x" else [(1, 2), span]), nth(0), "beside")
        panel.label("size", "error")
        panel.log(which)
    made.finish()  # refuses numbers that touch
    for panel in chain.from_iterable(made.panels):
        axis = getattr(panel.axes, f"{which}axis")
        low, high = sorted(axis.get_view_interval())
        assert sum(low <= place <= high for place in axis.get_majorticklocs()) >= 2


def test_both_forms_are_written_alike_and_every_time_the_same(tmp_path):
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        made = sheet()
        assert made.save(folder, "figure") == [folder / "figure.svg", folder / "figure.png"]
    svg = (tmp_path / "first" / "figure.svg").read_text()
    wide, high = (float(value) for value in re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups())
    with Image.open(tmp_path / "first" / "figure.png") as picture:
        assert picture.size == pytest.approx((wide * DPI / 72, high * DPI / 72), abs=1)
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert "<dc:title>Five falls to one</dc:title>" in svg
    for name in ("figure.svg", "figure.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_error_bars_end_at_what_the_quantity_can_be(scale):
    made = Sheet("Bars", height=1.8)
    panel = made.panel()
    panel.line([1, 2, 3], [99, 50, 2], nth(0), std=[5, 60, 3])
    panel.label("size", "error, %", bounds=(0, 100))
    if scale == "log":
        panel.log("y")
    made.finish()
    [bars] = [each for each in panel.axes.collections if len(each.get_segments()) == 3]
    ends = [sorted(segment[:, 1]) for segment in bars.get_segments()]
    assert ends[0] == pytest.approx([94, 100])
    assert ends[1] == pytest.approx([25 if scale == "log" else 0, 100])
    assert ends[2] == pytest.approx([1 if scale == "log" else 0, 5])
    low, high = panel.axes.get_ylim()
    assert low <= min(end[0] for end in ends) and high >= 100


def test_panels_that_share_an_axis_have_room_for_the_bars_of_all():
    made = Sheet("Bars", columns=2, height=1.5, share_y="all")
    for column, spread in enumerate((0.1, 40)):
        panel = made.panel(0, column)
        panel.line([1, 2], [50, 51], nth(0), std=[spread, spread])
        panel.label("size", "error, %", bounds=(0, 100))
    made.finish()
    assert made.panels[0][0].axes.get_ylim()[0] <= 10


def test_panels_that_share_axes_are_labelled_at_the_edge_and_above_words():
    made = Sheet("Shared", rows=2, columns=2, height=1.2, share_x="all", share_y="all")
    for row, column in ((0, 0), (0, 1), (1, 0)):
        panel = made.panel(row, column)
        panel.line([1, 2], [1, 2], nth(0))
        panel.label("size", "error")
    made.words(1, 1, "what the names mean")
    made.finish()
    said = [[(panel.axes.get_xlabel(), panel.axes.get_ylabel()) for panel in line] for line in made.panels]
    assert said[0] == [("", "error"), ("size", "")] and said[1][0] == ("size", "error")


fractions = st.floats(-0.5, 1.5)


@given(st.lists(st.tuples(fractions, st.floats(0.01, 0.12)), min_size=1, max_size=8))
def test_labels_keep_their_order_and_their_distance(labels):
    wanted, heights = [list(part) for part in zip(*labels, strict=True)]
    places = spread_out(wanted, heights)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for below, above in pairwise(order):
        assert places[above] - places[below] >= (heights[above] + heights[below]) / 2 - 1e-9
    assert all(
        height / 2 - 1e-9 <= place <= 1 - height / 2 + 1e-9 for place, height in zip(places, heights, strict=True)
    )


def test_labels_with_room_stay_where_they_are():
    assert spread_out([0.8, 0.2, 0.5], [0.1] * 3) == pytest.approx([0.8, 0.2, 0.5])
    assert spread_out([0.5, 0.5], [0.2, 0.2]) == pytest.approx([0.4, 0.6])
    assert spread_out([], []) == []


@given(st.lists(st.sampled_from(ORDER), min_size=1, max_size=len(COLOURS), unique=True))
def test_methods_drawn_together_have_their_symbols_and_different_colours(names):
    found = together(*names)
    assert len({each.colour for each in found.values()}) == len(names)
    assert all((each.shape, each.dash) == (look(name).shape, look(name).dash) for name, each in found.items())
    assert found[names[0]] == look(names[0])
