"""Excerpts of boards in pages: what they show, which pages they change, and what is refused."""

import pytest

from benchmarks.boards.excerpts import renew, renewed
from methods.errors import BadInput


def test_excerpts_follow_the_boards_and_a_wrong_name_is_refused():
    board = (
        "# B\n\n## digits: x\n\n| a | b \\| c | d |\n| --: | :-- | --: |\n| 1 | x | 3 |\n| 2 | y | 4 |\n\nnote | x |\n"
    )
    page = 'top\n\n<!-- board "digits": 1 rows of d, a -->\n\n| old | table |\n| -- | -- |\n\nend\n'
    told = renewed(page, board)
    assert told == 'top\n\n<!-- board "digits": 1 rows of d, a -->\n\n| d | a |\n| --: | --: |\n| 3 | 1 |\n\nend\n'
    assert renewed(told, board) == told
    whole = renewed('<!-- board "digits": 9 rows -->\n\n', board)
    assert whole.count("\n| ") == 4 and "| b \\| c |" in whole
    with pytest.raises(BadInput, match="no column e; it has a, b"):
        renewed(page.replace("d, a", "d, e"), board)
    with pytest.raises(BadInput, match="0 reviewed boards"):
        renewed(page.replace('"digits"', '"letters"'), board)


def test_boards_of_other_results_change_no_page(tmp_path):
    board = "# Leaderboard\n\n## digits: x\n\n| a |\n| --: |\n| 1 |\n"
    page = '<!-- board "digits": 1 rows -->\n\n| a |\n| --: |\n| 0 |\n'
    (tmp_path / "README.md").write_text(page)
    for results in ("mine", "results"):
        file = tmp_path / results / "boards/reviewed/leaderboard.md"
        file.parent.mkdir(parents=True)
        file.write_text(board)
        assert renew(file, tmp_path) == ([] if results == "mine" else ["README.md"])
        assert ("| 1 |" in (tmp_path / "README.md").read_text()) == (results == "results")
        assert renew(file, tmp_path) == []
