"""The planting of faults: what it changes, which it chooses, and that a fault is noticed where a test looks."""

import ast
import runpy
import sys
import time
from pathlib import Path

import pytest

from tests.mutate import KNOWN, ROOT, TARGETS, UNENDING, WANTED, Verdict, group_of, known, report, suite, targets
from tests.mutation import running
from tests.mutation.faults import chosen, faults, files_of, switched
from tests.mutation.wiring import Named, named, unnoticed

SOURCE = '''
"""Doc."""
from __future__ import annotations
SIZE = 3
def f(a, b=1, *, deep=False):
    """Doc 2."""
    if a < b and not done(a):
        raise BadInput(f"{a} is 3")
    total: int = a + 2
    tell(total, deep=True)
    logger.warning("never %d", total)
    made.kept = order(total, a)
    return data.train if total == 3 else derive_seed(a, "x")
class C:
    def __repr__(self):
        return join("a", 5)
'''


def test_faults_change_meaning_and_leave_words_alone():
    found = faults("f.py", SOURCE)
    assert {fault.name for fault in found} >= {
        "3 -> 4",
        "f: 1 -> 2",
        "f: False -> True",
        "f: a < b -> a <= b",
        "f: a + 2 -> a - 2",
        "f: tell(total, deep=True) -> nothing",
        "f: tell(total, deep=True) -> tell(total)",
        "f: made.kept = order(total, a) -> nothing",
        "f: order(total, a) -> order(a, total)",
        "f: order(total, a) -> order(total)",
        "f: order(total, a) -> total",
        "f: data.train -> data.validation",
        "f: total == 3 -> total != 3",
        "f: not done(a) -> done(a)",
        "f: a < b and (not done(a)) -> a < b or not done(a)",
    }
    for fault in found:
        changed = ast.parse(fault.source)
        assert ast.get_docstring(changed) == "Doc."
        assert fault.source != ast.unparse(ast.parse(SOURCE))
        for words in ("is 3", "'a', 5", "never %d"):
            assert words in fault.source, fault.name


def test_verdicts_are_kept_by_code_and_not_by_docstrings():
    other_words = SOURCE.replace('"""Doc 2."""', '"""Other words."""')
    pairs = list(zip(faults("f.py", SOURCE), faults("f.py", other_words), strict=True))
    assert all(old.code == new.code and old.source != new.source for old, new in pairs)
    assert len({old.code for old, _ in pairs}) == len({old.source for old, _ in pairs}) > 10


def test_all_faults_lie_in_one_file_and_one_at_a_time_is_switched_on(monkeypatch):
    text = "def f(a, b=1):\n    '''Doc.'''\n    a += b\n    return a * 2 if a < 3 else max(a, b)\n"
    found = dict(enumerate(faults("f.py", text)))
    code = compile(switched(text, found), "f.py", "exec")

    def value(active, *arguments):
        seen = set()
        planted = type(sys)("planted")
        planted.fault = lambda number: seen.add(number) or number == active
        monkeypatch.setitem(sys.modules, "planted", planted)
        names = {}
        exec(code, names)
        return names["f"](*arguments), seen

    for number, fault in found.items():
        names = {}
        exec(fault.source, names)
        for arguments in ((1,), (5, 2), (2, 0)):
            try:
                expected = names["f"](*arguments)
            except TypeError:  # max of a single number
                with pytest.raises(TypeError):
                    value(number, *arguments)
            else:
                assert value(number, *arguments)[0] == expected, fault.name
    right, seen = value(-1, 1)
    assert right == 4
    assert {found[number].name for number in seen} >= {"f: 1 -> 2", "f: a * 2 -> a / 2"}
    assert not any("max" in found[number].name and "if" not in found[number].name for number in seen)


def test_processes_that_a_test_starts_say_what_they_reach(tmp_path, monkeypatch):
    told, switches = tmp_path / "reached", str(Path(running.__file__).with_name("planted.py"))
    monkeypatch.setenv("PLANTED_SEEN", str(told))
    monkeypatch.setenv("PLANTED_FAULT", "4")
    for _ in range(2):  # processes
        fault = runpy.run_path(switches)["fault"]
        assert [fault(number) for number in (3, 4, 3)] == [False, True, False]
    assert told.read_text().split() == ["3", "4"] * 2


def test_the_choice_is_the_same_for_a_seed_and_spreads_and_survives_changes_elsewhere():
    texts = files_of(ROOT, ["methods/schedule.py", "benchmarks/records/keys.py"])
    first, again, other = (chosen(12, seed, texts) for seed in (0, 0, 1))
    names = [[(fault.file, fault.name) for fault in faults] for faults in (first, again, other)]
    assert names[0] == names[1] != names[2]
    assert {fault.file for fault in first} == set(texts)
    moved = {file: text + "\n\n# a line more\n" for file, text in texts.items()}
    assert [(fault.file, fault.name) for fault in chosen(12, 0, moved)] == names[0]


def test_a_survivor_without_a_reason_fails_and_one_that_is_caught_by_now_is_named(capsys):
    fault = faults("methods/schedule.py", "x = 3\n")[0]
    caught, missed = Verdict(fault, "tests/test_a.py::test_b"), Verdict(fault, None)
    reasons = {(fault.file, fault.name): "a reason that is long enough"}
    assert report([caught] * 10, {}) == 0
    assert report([caught] * 9 + [missed], {}) == 1
    assert report([caught] * 9 + [missed], reasons) == 0
    assert "but caught by tests/test_a.py::test_b" in capsys.readouterr().out
    assert report([caught] * 9 + [Verdict(fault, UNENDING)], {}) == 0
    assert "caught by a time limit of processor time: methods/schedule.py:1" in capsys.readouterr().out
    assert report([caught] * 8 + [missed] * 2, reasons) == 1  # too many, whatever the reasons
    assert WANTED == 0.9


@pytest.mark.slow
def test_a_loop_without_end_meets_the_limit_and_a_slow_machine_does_not(monkeypatch):
    codes = []

    def loop():
        while True:
            pass

    def ask(do, patience):
        running.in_forks([running.Task(do, codes.append, patience)], jobs=1)

    ask(loop, 1)
    ask(lambda: time.sleep(1.5) or 3, 1)  # as on a machine that has no time for it
    monkeypatch.setattr(running, "WAITING", 0.1)
    ask(lambda: time.sleep(600) or 3, 0.01)
    assert codes == [None, 3, None]


@pytest.mark.slow
def test_a_fault_in_a_formula_is_noticed_and_one_in_a_word_is_not():
    test = "tests/methods/test_parts_wiring.py::test_schedules_are_their_closed_forms"
    formula = Named("the cubic schedule is cubic", "methods/schedule.py", "(1 - time) ** 3", "(1 - time) ** 4", test)
    word = Named("words do not matter", "methods/schedule.py", "When units are removed", "When nodes leave", test)
    said = []
    assert unnoticed([formula, word], said.append) == [word]
    assert len(said) == 2


def test_faults_of_the_wiring_name_what_is_there():
    for fault in named():
        text = (ROOT / fault.file).read_text(encoding="utf-8")
        assert text.count(fault.was) == 1, fault.promise
        if fault.file.endswith(".py"):
            compile(text.replace(fault.was, fault.now), fault.file, "exec")
        file, _, test = fault.test.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), fault.test


def test_targets_guards_and_known_survivors_name_what_is_there():
    files = targets(pattern for patterns in TARGETS.values() for pattern in patterns)
    for name, patterns in TARGETS.items():
        assert any(group_of(file) == name for file in files), patterns
    assert len(suite()) > 30
    for (file, fault), reason in known(KNOWN).items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert fault in {possible.name for possible in faults(file, text)}, f"{KNOWN.name}: {file} has no fault {fault}"
        assert len(reason) > 20, fault
