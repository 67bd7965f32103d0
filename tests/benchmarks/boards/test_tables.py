import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.boards.stats import Spread, spread
from benchmarks.boards.tables import Table, latex_text, plus_minus, probability, short
from methods.errors import one_line

NASTY = r"""a_b & 50% $x$ #1 {y} ~z ^w \input{/etc/passwd} <script>alert("1")</script> 'q' `r` --- é Ω 漢 ± × θ|"""
SPECIAL = re.compile(r"(?<!\\)[&%$#_^~]")


def table(text):
    return Table(text, ["method", "n"], [[text, "1"], ["plain", "2"]], left={"method"}, notes=[text])


class Reader(HTMLParser):
    VOID = frozenset({"meta", "br", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40))
def test_any_text_stays_text_in_html(text):
    reader = Reader()
    reader.feed(table(text).html())
    reader.close()
    assert reader.open == []
    assert set(reader.seen) == {"div", "table", "thead", "tr", "th", "tbody", "td", "p"}
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    assert "".join(reader.texts).count(shown) >= 3 if shown.strip() else True


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_any_text_stays_text_in_latex(text):
    written = latex_text(text)
    assert written.isascii() and written.isprintable()
    assert not SPECIAL.search(written.replace(r"\ensuremath{^2}", ""))
    assert not set(written) & set("<>|\"`'")
    assert written.count("{") == written.count("}") or r"\{" in written or r"\}" in written
    commands = set(re.findall(r"\\[a-z]+", written))
    known = r"textbackslash textasciitilde textasciicircum textless textgreater textbar char ensuremath pm times cdot"
    known += (
        " geq leq Delta lambda theta rho tau chi textendash textemdash ldots rightarrow hookrightarrow dagger ddagger"
    )
    assert commands <= {f"\\{name}" for name in known.split()}


def test_latex_of_hostile_text():
    assert latex_text(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex_text("50% of a_b & c") == r"50\% of a\_b \& c"
    assert latex_text("1.0 ± 0.2") == r"1.0 \ensuremath{\pm} 0.2" and latex_text("é漢") == "e?"


@pytest.mark.slow
def test_latex_compiles(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    if subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode:
        pytest.skip("LaTeX is installed without booktabs")
    wide = Table("wide", [f"column {n}" for n in range(30)], [["x"] * 30], notes=["note"])
    noted = Table(
        "noted", ["method"], [["x"]] * 100, notes=["a note of a dozen words, which fills a line or so " * 4] * 60
    )
    body = table(NASTY).latex() + wide.latex() + noted.latex()
    preamble = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{preamble}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000
    assert "Float too large" not in outcome.stdout and "Overfull \\vbox" not in outcome.stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.4, "999"),
        (999.6, "1k"),
        (12345, "12.3k"),
        (999_600, "1M"),
        (1.5e6, "1.5M"),
        (2e9, "2G"),
    ],
)
def test_short_counts(value, text):
    assert short(Spread(1, value, None)) == text


def test_spreads_and_probabilities():
    assert plus_minus(spread([0.9, 0.92]), 100) == "91.00 ± 1.41"
    assert plus_minus(spread([0.9, 0.92]), 100, interval=True) == "91.00 ± 12.71"
    assert plus_minus(spread([])) == "–" and plus_minus(spread([1.0])) == "1.00 ± –"
    assert [probability(p) for p in (None, 0.0001, 0.04)] == ["–", "<0.001", "0.040"]


@given(st.text("ab1. ", max_size=60), st.integers(5, 40))
def test_one_line_is_cut_between_words_where_it_can(text, limit):
    line = one_line(text, limit)
    first = next(iter(text.strip().splitlines()), "")
    assert len(line) <= limit
    assert line == first or (line.endswith("…") and first.startswith(line[:-1]))
    if line != first and line[:-1].endswith(" "):
        assert len(line) > limit // 2


def test_a_number_in_a_reason_stays_whole():
    assert one_line("at most 12.5 of 1234567 units remain", 20) == "at most 12.5 of …"
    assert one_line("x" * 30, 20) == "x" * 19 + "…"
