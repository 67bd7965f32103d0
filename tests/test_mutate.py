"""The planting of faults: what it changes, and that a fault is noticed where a test looks and nowhere else."""

import ast

import pytest
from mutate import GUARDS, ROOT, Fault, chosen, faults, known, notices

SOURCE = '''
"""Doc."""
def f(a, b=1):
    """Doc 2."""
    if a < b and not done(a):
        raise BadInput(f"{a} is 3")
    total: int = a + 2
    tell(total, deep=True)
    return data.train if total == 3 else derive_seed(a, "x")
'''


def test_faults_change_meaning_and_leave_words_alone():
    found = faults("f.py", SOURCE)
    assert {fault.name for fault in found} >= {
        "a < b -> a <= b",
        "a + 2 -> a - 2",
        "2 -> 3",
        "tell(total, deep=True) -> None",
        "tell(total, deep=True) -> tell(total)",
        "data.train -> data.validation",
        "total == 3 -> total != 3",
        "derive_seed(a, 'x') -> derive_seed(a)",
        "a < b and (not done(a)) -> a < b or not done(a)",
    }
    for fault in found:
        assert "Doc." in ast.get_docstring(ast.parse(fault.source))
        assert fault.source != ast.unparse(ast.parse(SOURCE))
        assert "is 3" in fault.source  # messages stay


def test_the_choice_is_the_same_for_a_seed_and_spreads():
    files = ["methods/schedule.py", "benchmarks/records/keys.py"]
    first, again, other = (chosen(12, seed, files) for seed in (0, 0, 1))
    assert first == again != other
    assert {fault.file for fault in first} == set(files)


@pytest.mark.slow
def test_a_fault_in_a_formula_is_noticed_and_one_in_a_word_is_not():
    file = "methods/schedule.py"
    text = (ROOT / file).read_text(encoding="utf-8")
    cubic = next(fault for fault in faults(file, text) if "** 3" in fault.was and "** 4" in fault.now)
    assert notices(cubic, 120)
    assert not notices(Fault(file, 1, "doc", "doc", text.replace("When units are removed", "When nodes leave")), 120)


def test_guards_and_known_survivors_name_what_is_there():
    for file, tests in GUARDS.items():
        assert (ROOT / file).is_file(), file
        for test in tests:
            assert (ROOT / "tests" / test).exists(), test
    for (file, fault), reason in known().items():
        assert file in GUARDS, fault
        assert len(reason) > 10
