import pytest

from benchmarks.boards.stats import spread
from benchmarks.reproductions.dpp._teacher_student_theory import random_edge
from benchmarks.reproductions.published import COLUMNS, Published, compare, load, read, table_of
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

HEAD = ",".join(COLUMNS)


def number(value=10.0, certainty="raw"):
    return Published("P", "table 1", "s", "accuracy", value, "%", certainty, "")


def test_committed_numbers_can_be_read_and_are_complete():
    numbers = load(REPOSITORY / "results" / "published")
    assert len(numbers) > 300
    for entry in numbers:
        assert entry.paper and entry.where and entry.setting and entry.quantity, entry
        assert entry.value is not None or entry.difference, entry
    keys = [(n.paper, n.where, n.setting, n.quantity) for n in numbers]
    assert len(keys) == len(set(keys)), "no number twice"
    percent = [n.value for n in numbers if n.unit == "%" and n.value is not None]
    assert all(0 <= value <= 100 for value in percent)
    assert "memory" in {n.certainty for n in numbers} and "raw" in {n.certainty for n in numbers}


def test_published_closed_form_is_the_one_of_the_suite():
    numbers = load(REPOSITORY / "results" / "published")
    found = [n for n in numbers if n.certainty == "source" and "random edge, closed form" in n.setting]
    edges = (83, 166, 250, 333, 417)
    assert len(found) == len(edges)
    for entry, kept in zip(found, edges, strict=True):
        assert random_edge(kept / 500, 2, 3, 4.0) == pytest.approx(entry.value, abs=6e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "its columns are a, b"),
        (f"{HEAD}\nP,w,s,q,1,%,certain,\n", "line 2: certainty 'certain'; expected one of source, raw"),
        (f"{HEAD}\nP,w,s,q,one,%,raw,\n", "line 2: the value 'one' is not a number"),
        (f"{HEAD}\nP,w,s,q,inf,%,raw,\n", "not finite"),
        (f"{HEAD}\nP,w,s,q,1,%,raw\n", "line 2: expected 8 fields"),
        (f"{HEAD}\nP,w,s,q,1,%,raw,a,b\n", "line 2: expected 8 fields"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read(path)


def test_states():
    assert compare(number(), spread([10.4, 10.2])) == "reproduced within tolerance"
    assert compare(number(), spread([10.6, 10.7])) == "differs"
    assert compare(number(), spread([9.0, 13.0])) == "reproduced within tolerance", "ours is that uncertain"
    assert compare(number(), spread([])) == "not run"
    assert compare(number(certainty="memory"), spread([10.0])) == "not comparable"
    assert compare(number(value=None), spread([10.0])) == "not comparable"


def test_table_marks_certainty():
    table = table_of([number(certainty="memory"), number(value=None)])
    assert table.rows[0][6] == "memory" and table.rows[1][4] == "–"
