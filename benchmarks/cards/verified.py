"""Which tests compare a method with its authors' numbers, with brute force, or with a closed form.

A test says so itself, and this reads it from the source of the tests, without running or importing them:

    @pytest.mark.verifies("lamp", by="authors' program")
    def test_lamp_scores_are_its_authors(): ...
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

TESTS = REPOSITORY / "tests"
MARK = "verifies"
KINDS = ("authors' program", "brute force", "closed form")  # what a method is compared with, the strongest first


@dataclass(frozen=True)
class Verification:
    """One test: what it compares with (of ``KINDS``), its file below the repository, and its name."""

    by: str
    file: str
    test: str


@cache
def verifications(tests: Path = TESTS) -> Mapping[str, tuple[Verification, ...]]:
    """By method the tests that verify it, the strongest kind first; empty where there are no tests beside the code.

    Raises:
        BadInput: a mark that cannot be read.
    """
    found: dict[str, list[Verification]] = defaultdict(list)
    for path in sorted((tests / "methods").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if MARK not in text:
            continue
        file = path.relative_to(tests.parent).as_posix()
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                for methods, by in _marks(function, file):
                    for method in methods:
                        found[method].append(Verification(by, file, function.name))
    return {method: tuple(sorted(own, key=lambda each: KINDS.index(each.by))) for method, own in sorted(found.items())}


def _marks(function: ast.FunctionDef, file: str) -> Iterator[tuple[list[str], str]]:
    for decorator in function.decorator_list:
        if (
            isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Attribute)
            and decorator.func.attr == MARK
        ):
            methods = [value.value for value in decorator.args if isinstance(value, ast.Constant)]
            named = {each.arg: each.value for each in decorator.keywords}
            by = named["by"].value if isinstance(named.get("by"), ast.Constant) else None  # type: ignore[attr-defined]
            if not methods or len(methods) != len(decorator.args) or by not in KINDS:
                raise BadInput(
                    f"{file}, {function.name}: a mark that cannot be read; expected names of methods, and by= one of "
                    f'{", ".join(KINDS)}: type @pytest.mark.{MARK}("lamp", by="brute force")'
                )
            yield [str(method) for method in methods], str(by)


def told(found: tuple[Verification, ...]) -> str:
    """For a card: each kind with its tests, as they are typed behind ``python -m pytest``."""
    parts = []
    for kind in KINDS:
        tests = [f"`{each.file}::{each.test}`" for each in found if each.by == kind]
        if tests:
            parts.append(f"{kind}: {', '.join(tests)}")
    return "; ".join(parts) or "no test says so"
