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
    """The reviewed board; without one the README must not show any."""
    path = ROOT / "results/boards/reviewed/leaderboard.md"
    if not path.is_file():
        readme = (ROOT / "README.md").read_text()
        assert "| rank | method |" not in readme and "| mean rank |" not in readme
        pytest.skip("no reviewed board, and none in the README")
    return path.read_text()


def test_the_readmes_board_is_a_part_of_the_reviewed_one():
    board = reviewed()
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


def test_the_readmes_ranks_are_those_of_the_reviewed_board():
    board = reviewed()
    readme = (ROOT / "README.md").read_text()
    words = {10: "ten", 19: "nineteen"}
    rankings = board.split("\n## ")[1:3]
    shown = readme.split("\n| method | mean rank |")
    assert len(rankings) == 2 and len(shown) == 3
    for number, ranking in enumerate(rankings):
        methods, tasks = map(int, re.findall(r"(\d+) methods over (\d+) tasks", ranking)[0])
        introduction = " ".join(shown[number].rstrip().rpartition("\n\n")[2].split())
        assert f"ver the {tasks} tasks" in introduction and f"{words.get(methods, methods)} methods" in introduction
        rows = shown[number + 1].split("\n\n")[0]
        assert len(rows.splitlines()) > 5 and rows in ranking
