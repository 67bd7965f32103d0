"""No text of a record, a file or a folder gets at the terminal that shows it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from benchmarks.storage.console import output_console, printable

STEERING = "\x1b[2J\x1b]0;title\x07\x08\r\x9b31m\u202e\u200b\u2028"

CONTROLS = set("\x1b\x07\x08\r\x9b\u202e\u200b\u2028")


@given(st.text())
def test_what_is_printable_keeps_its_length_and_its_letters(text):
    shown = printable(text)
    assert len(shown) == len(text) and printable(shown) == shown
    assert not set(shown) & CONTROLS
    assert all(a == b or b == "\ufffd" for a, b in zip(text, shown, strict=True))


def test_letters_of_all_languages_and_line_ends_stay():
    assert printable("naïve 模型 ±\u00a0μ\n\t·") == "naïve 模型 ±\u00a0μ\n\t·"


@pytest.mark.parametrize("markup", [True, False])
def test_no_control_character_of_a_text_reaches_the_terminal(markup, monkeypatch):
    console = output_console()
    console.file = io.StringIO()
    table = Table(title=f"a{STEERING}")
    table.add_column(f"b{STEERING}")
    table.add_row(f"c{STEERING}")
    for text in (f"d{STEERING}e", Text(f"f{STEERING}"), table):
        console.print(text, markup=markup)
    console.out(f"g{STEERING}")
    said = console.file.getvalue()
    assert not set(said) & CONTROLS
    assert all(letter in said for letter in "abcdefg")


def test_colours_of_our_own_still_do():
    console = output_console()
    coloured = type(console)(file=io.StringIO(), force_terminal=True, color_system="standard")
    coloured.print(f"[red]x{STEERING}[/]")
    said = coloured.file.getvalue()
    assert "\x1b[31m" in said and "\x1b[2J" not in said and "\x1b]0" not in said


def test_a_log_keeps_each_line_whole_and_a_terminal_wraps_it():
    line = "python run.py " + " ".join(f"method=m{number}" for number in range(60))
    console = output_console()
    logged, shown = io.StringIO(), io.StringIO()
    type(console)(file=logged, width=120).print(line)
    type(console)(file=shown, width=120, force_terminal=True, color_system=None).print(line)
    assert logged.getvalue() == f"{line}\n"
    assert max(map(len, shown.getvalue().splitlines())) <= 120
