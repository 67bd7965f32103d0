"""Pages on papers say of each claim what the reproduction that they point to says."""

import re

import pytest

from benchmarks.storage.paths import REPOSITORY

FOLDER = REPOSITORY / "docs" / "papers"
ROW = re.compile(r'^\| .* \| \[(?P<name>\w+)\]\((?P<path>[^)]+)\): "(?P<claim>.+)" \| (?P<seen>.+) \|$', re.MULTILINE)
STATES = {"seen", "not seen", "undecided"}
ROWS = [
    pytest.param(page, row, id=f"{page.stem}-{row['name']}-{number}")
    for page in sorted(FOLDER.glob("*.md"))
    for number, row in enumerate(ROW.finditer(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("page", "row"), ROWS)
def test_verdicts_are_those_of_the_reproduction(page, row):
    found = (page.parent / row["path"]).resolve()
    lines = found.read_text(encoding="utf-8").splitlines()
    verdicts = [line.split(" | ")[1] for line in lines if line.startswith(f"| {row['claim']} | ")]
    assert verdicts == [row["seen"]] and row["seen"] in STATES


def test_every_row_with_a_verdict_is_read():
    for page in FOLDER.glob("*.md"):
        lines = page.read_text(encoding="utf-8").splitlines()
        judged = [line for line in lines if line.rstrip(" |").rsplit("| ", 1)[-1] in STATES]
        assert len(judged) == sum(parameters.values[0] == page for parameters in ROWS)
    assert len(ROWS) > 40
