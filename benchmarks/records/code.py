"""Compute a digest of the code of a cell's method: the classes of its parts and the suite's files that they import.

The digest is in the record (``fingerprint.code``) and not in the key, so that a change of a method can be noticed
without moving its records. Comments, docstrings and layout do not count. Only files of ``methods`` are read; they are
found by name and never imported, since a record may come from anybody. A part that a user has written counts by its
name alone.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.records.confirmed import Pair, confirmed
from benchmarks.records.names import today
from benchmarks.settings.home import PARTS
from benchmarks.storage.paths import REPOSITORY

PACKAGE = "methods"
LOOP = "methods.pruner"  # what all methods share: allocate, select, compensate, remove
FIELD = "code"  # the field of a fingerprint
LENGTH = 16
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def targets_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes that make up the method of ``config``, in the order of the parts."""
    sections = (config.get(part) for part in PARTS)
    return tuple(str(section.get("_target_", "")) if isinstance(section, Mapping) else "" for section in sections)


def digest(targets: Iterable[str]) -> str:
    """The digest of the code behind ``targets``, 16 hexadecimal digits."""
    names = [today(target) for target in targets]
    return _digest(tuple(names))


def changed(recorded: str | None, targets: Iterable[str]) -> bool | None:
    """Whether the code behind ``targets`` has a digest other than ``recorded``; None if ``recorded`` is None.

    Code that has been shown to reproduce the results of the recorded code counts as the same
    (:mod:`benchmarks.records.confirmed`).
    """
    if recorded is None:
        return None
    present = digest(targets)
    return recorded != present and not confirmed(Pair(recorded, present))


def forget() -> None:
    """Clear the cache, so that the next digest reads the code again; otherwise a process reads it once."""
    _digest.cache_clear()
    _read.cache_clear()


@cache
def _digest(names: tuple[str, ...]) -> str:
    modules = sorted({LOOP, *(found for name in names for found in _modules_of(name))})
    seen: set[str] = set()
    while modules:
        module = modules.pop()
        if module not in seen:
            seen.add(module)
            modules += _read(module)[1]
    lines = [*names, *(f"{module} {_read(module)[0]}" for module in sorted(seen))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:LENGTH]


def _modules_of(name: str) -> list[str]:
    """The module of ``methods`` that a dotted name begins with; empty for names from elsewhere."""
    parts = name.split(".")
    while parts and parts[0] == PACKAGE:
        if _file(".".join(parts)):
            return [".".join(parts)]
        parts.pop()
    return []


def _file(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """A digest of a module's code, and the modules of ``methods`` that it imports."""
    path = _file(module)
    assert path is not None  # callers have checked
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported = tuple(sorted({found for name in _imports(tree, package) for found in _modules_of(name)}))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that are imported anywhere below ``node``, but not those that only a type checker sees."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, package)
