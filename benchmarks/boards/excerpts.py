"""Rows of the reviewed boards in pages: a comment names the rows, and the table below it is made from the board.

A page asks for rows with a comment on a line of its own, which readers do not see::

    <!-- board "digits · mlp · compression 16": 8 rows of rank, method, n, after fine-tuning -->

The table below the comment is replaced by the first rows of the board whose title begins with the quoted text. If no
columns are named, all are taken. :func:`renew` does this for the pages of the project.
"""

import re
from pathlib import Path

from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput

PAGES = ("README.md", "docs/findings.md")
BOARD = "results/boards/reviewed/leaderboard.md"  # the board whose rows the excerpts show
MARK = re.compile(
    r'^<!-- board "(?P<title>[^"]+)": (?P<rows>\d+) rows(?: of (?P<columns>[^>]+?))? -->\n\n(?:\|.*\n)*', re.M
)
BETWEEN = re.compile(r"(?<!\\) \| ")  # two cells of a line; a bar within a text is escaped


def renewed(page: str, board: str) -> str:
    """Return the text ``page`` with its excerpts updated from the Markdown text ``board``.

    Raises:
        BadInput: the page asks for a board or a column that does not exist.
    """
    return MARK.sub(lambda found: _excerpt(found, board), page)


def renew(board: Path, root: Path, write: bool = True) -> list[str]:
    """Renew the excerpts in the pages below ``root`` from the file ``board``; return the pages that this changes.

    The excerpts show the project's reviewed boards; boards in another folder of results change no page.

    Args:
        board: the reviewed boards as Markdown.
        root: folder of the project; pages that are not there are left out.
        write: whether to change the pages, or only to say which would change.
    """
    if board.resolve() != (root / BOARD).resolve():
        return []
    text, changed = board.read_text(encoding="utf-8"), []
    for name in PAGES:
        if not (path := root / name).is_file():
            continue
        before = path.read_text(encoding="utf-8")
        after = renewed(before, text)
        if after != before:
            changed.append(name)
            if write:
                write_atomically(path, after)
    return changed


def _excerpt(found: re.Match[str], board: str) -> str:
    title = found["title"]
    sections = [part for part in board.split("\n## ")[1:] if part.startswith(title)]
    if len(sections) != 1:
        raise BadInput(f"{len(sections)} reviewed boards have a title that begins with {title!r}; expected one.")
    lines = [line for line in sections[0].splitlines() if line.startswith("| ")]
    cells = [BETWEEN.split(line.removeprefix("| ").removesuffix(" |")) for line in lines]
    wanted = found["columns"].split(", ") if found["columns"] else cells[0]
    unknown = [name for name in wanted if name not in cells[0]]
    if unknown:
        raise BadInput(f"The board {title!r} has no column {', '.join(unknown)}; it has {', '.join(cells[0])}.")
    places = [cells[0].index(name) for name in wanted]
    shown = cells[: 2 + int(found["rows"])]
    table = "".join(f"| {' | '.join(row[place] for place in places)} |\n" for row in shown)
    return found[0].partition("\n")[0] + "\n\n" + table
