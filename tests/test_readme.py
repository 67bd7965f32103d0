"""The README and its pages tell the truth: links lead somewhere, commands exist, rows are those of the boards."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_named_experiments_exist(page):
    text = page.read_text()
    for module in set(re.findall(r"python -m (benchmarks[\w.]*)", text)) - {"benchmarks.X"}:
        assert importlib.util.find_spec(module), module
    for name in set(re.findall(r"\+experiment=(\w+)", text)) - {"NAME"}:
        assert (ROOT / f"conf/experiment/{name}.yaml").is_file(), name
    for target in set(re.findall(r"^make (\w+)", text, re.MULTILINE)):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text() or f" {target} " in (ROOT / "Makefile").read_text()


def reviewed():
    """The reviewed board, or None; without one the README must not show any."""
    path = ROOT / "results/boards/reviewed/leaderboard.md"
    if not path.is_file():
        readme = (ROOT / "README.md").read_text()
        assert "| rank | method |" not in readme and "| place | method |" not in readme
        return None
    return path.read_text()


def test_the_readmes_board_is_a_part_of_the_reviewed_one():
    if (board := reviewed()) is None:
        return
    readme = (ROOT / "README.md").read_text()
    [kind] = re.findall(r"compression of (\d+) on digits", readme)
    whole = board[board.index(f"## digits · mlp · compression {kind}:") :].split("\n## ")[0]

    def cells(line):
        return [part.strip() for part in line.strip("|").split("|")]

    lines = [cells(line) for line in whole.splitlines() if line.startswith("| ")]
    place = {name: number for number, name in enumerate(lines[0])}
    start = readme.index("| rank | method |")
    shown = [cells(line) for line in readme[start:].split("\n\n")[0].splitlines()]
    assert len(shown) > 5
    wanted = [[row[place[name]] for name in shown[0]] for row in lines[2 : len(shown)]]
    assert shown[2:] == wanted


def test_the_readmes_ranks_over_networks_are_those_of_the_reviewed_board():
    if (board := reviewed()) is None:
        return
    readme = (ROOT / "README.md").read_text()
    rankings = board.split("\n## ")[1:3]
    shown = [part for part in readme.split("\n\n") if part.startswith("| place | method |")]
    assert len(shown) == 2
    for rows, ranking in zip(shown, rankings, strict=True):
        assert "methods over" in ranking and len(rows.splitlines()) > 5 and rows in ranking
        words = {7: "seven"}
        [count] = {int(number) for number in re.findall(r"over (\d+) networks", ranking)}
        assert f"{words.get(count, count)} networks" in readme
    if "All pairs are undecided" in readme:
        assert all(re.search(r"pairs: 0 better", ranking) for ranking in rankings)


def test_the_readme_names_every_reconstruction():
    text = (ROOT / "README.md").read_text()
    section = text[text.index("What is a reconstruction") :].split("\n\n")[0]
    for path in sorted((ROOT / "conf/method").glob("*.yaml")):
        assert (f"`{path.stem}`" in section) == ("# Reconstruction:" in path.read_text()), path.stem
