"""Which tests verify which methods: all methods have one, and a mark says what it compares with."""

import re

import pytest

from benchmarks.cards.preset import method_names
from benchmarks.cards.verified import KINDS, Verification, told, verifications
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput


def test_every_method_is_compared_with_its_authors_or_brute_force_or_a_closed_form():
    found = verifications()
    assert sorted(found) == method_names()
    for method, tests in found.items():
        for each in tests:
            text = (REPOSITORY / each.file).read_text(encoding="utf-8")
            assert re.search(rf"^def {each.test}\(", text, re.M), (method, each)


@pytest.mark.parametrize(
    "method",
    ["lamp", "wanda", "sparsegpt", "snip", "grasp", "synflow", "chip", "hrank", "fpgm", "exact_obs", "sap", "cbs"],
)
def test_methods_whose_authors_have_a_program_are_compared_with_it_first(method):
    assert verifications()[method][0].by == KINDS[0]


def written(tmp_path, mark):
    folder = tmp_path / "tests" / "methods"
    folder.mkdir(parents=True)
    text = f"import pytest\n\n\n{mark}\n@pytest.mark.slow\ndef test_it(case):\n    pass\n"
    (folder / "test_mine.py").write_text(text)
    return tmp_path / "tests"


def test_marks_are_read_without_running_the_tests(tmp_path):
    tests = written(tmp_path, '@pytest.mark.verifies("mine", "yours", by="brute force")')
    one = Verification("brute force", "tests/methods/test_mine.py", "test_it")
    assert verifications(tests) == {"mine": (one,), "yours": (one,)}
    assert told((one,)) == "brute force: `tests/methods/test_mine.py::test_it`"
    assert told(()) == "no test says so"


@pytest.mark.parametrize(
    "mark",
    [
        'verifies("mine", by="faith")',
        'verifies("mine")',
        'verifies(by="brute force")',
        'verifies(NAMES, by="brute force")',
    ],
)
def test_a_mark_that_cannot_be_read_is_named(tmp_path, mark):
    with pytest.raises(BadInput, match=r"test_mine.py, test_it: a mark that cannot be read; expected"):
        verifications(written(tmp_path, f"@pytest.mark.{mark}"))
