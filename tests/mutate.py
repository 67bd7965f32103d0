"""Plants small faults in the code, one at a time, and tells which of them no test notices: ``python -m tests.mutate``.

A fault lives in memory only: each is compiled from a changed syntax tree in a forked process, where an import hook
hands it out in place of the file's own code, and the tests that guard the file run there. So several can run at once,
and the working tree is never touched. Meant for a night or for a changed file, not for every commit.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
KNOWN = Path(__file__).with_name("survivors.toml")
HEAVY = ("torch", "hydra", "omegaconf", "pandas", "scipy.stats", "lightning_fabric", "hypothesis", "pytest", "yaml")
OURS = ("methods", "benchmarks", "secateurs", "conf", "networks", "warm")
WANTED = 0.9  # of the faults must be caught
GUARDS = {  # file -> the tests that should notice
    "benchmarks/cells/cell.py": ("benchmarks/cells",),
    "benchmarks/cells/preparation.py": ("benchmarks/cells/test_wiring.py",),
    "benchmarks/cells/steps.py": ("benchmarks/cells/test_iterative_cells.py",),
    "benchmarks/training/loop.py": ("benchmarks/training/test_trainer.py",),
    "benchmarks/training/optimisation.py": ("benchmarks/training/test_trainer.py",),
    "benchmarks/training/scoring.py": ("benchmarks/training/test_trainer.py",),
    "benchmarks/training/dense.py": ("benchmarks/training/test_dense.py",),
    "benchmarks/data/splits.py": ("benchmarks/data", "benchmarks/cells/test_wiring.py"),
    "benchmarks/boards/stats.py": ("benchmarks/boards/test_stats.py",),
    "benchmarks/boards/board.py": ("benchmarks/boards",),
    "benchmarks/boards/overall.py": ("benchmarks/boards",),
    "benchmarks/records/keys.py": ("benchmarks/records/test_keys.py",),
    "benchmarks/records/store.py": ("benchmarks/records/test_records.py",),
    "methods/budgets/budget.py": ("methods/budgets", "methods/test_pruner.py"),
    "methods/pruner.py": ("methods/test_pruner.py", "methods/test_parts_wiring.py", "methods/test_compensation.py"),
    "methods/schedule.py": ("methods/test_parts_wiring.py", "methods/test_pruner.py"),
    "methods/compensation.py": (
        "methods/test_compensation.py",
        "methods/test_parts_wiring.py",
        "methods/test_pruner.py",
    ),
    "methods/allocation.py": ("methods/test_allocation.py", "methods/test_pruner.py"),
    "methods/layers/statistics.py": ("methods/layers", "methods/test_pruner.py"),
}
SWAPPED_NAMES = {
    **{"train": "validation", "validation": "test", "test": "validation"},
    **{"dense": "pruned", "pruned": "dense", "tuned": "pruned", "inputs": "targets", "labels": "inputs"},
    **{"finetune": "train", "min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"},
}
COMPARED = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
STREAMS = ("derive_seed", "stream")
SPOKEN = ("BadInput", "Skipped", "Collapsed", "ValueError", "RuntimeError", "warning", "info", "debug", "track")


@dataclass(frozen=True)
class Fault:
    """One planted fault: where, what, and the source with it."""

    file: str
    line: int
    was: str
    now: str
    source: str

    @property
    def name(self) -> str:
        """How it is listed among the survivors that are known: stays when lines move."""
        return f"{self.was} -> {self.now}"


def faults(file: str, text: str) -> list[Fault]:
    """Every fault that can be planted in ``text``."""
    tree, found = ast.parse(text), []
    for place, node in enumerate(_touchable(tree)):
        for number in range(len(_changes(node))):
            planted = copy.deepcopy(tree)
            target = next(other for index, other in enumerate(_touchable(planted)) if index == place)
            was, line = _shown(target), getattr(target, "lineno", 0)
            _changes(target)[number]()
            now = _shown(target)
            if now != was:
                found.append(Fault(file, line, was, now, ast.unparse(ast.fix_missing_locations(planted))))
    return found


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:160]


def _touchable(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes whose meaning matters, in a fixed order: no messages, annotations, docstrings or imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr | ast.arg):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in SPOKEN:
            continue
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                yield from _touchable(ast.Expression(node.value))
            continue
        if isinstance(node, ast.FunctionDef):
            inner = ast.Module([*node.body], [])
            yield from _touchable(inner)
            continue
        yield node
        yield from _touchable(node)


def _changes(node: ast.AST) -> list:
    """What can be done to ``node``, each a function that does it in place."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        return [lambda: node.ops.__setitem__(0, COMPARED[type(node.ops[0])]())]
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in COMPUTED:
        return [lambda: setattr(node, "op", COMPUTED[type(node.op)]())]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
        return [lambda: setattr(node.right, "value", node.right.value + 1)]
    if isinstance(node, ast.BoolOp):
        return [lambda: setattr(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return [lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, ast.Attribute) and node.attr in SWAPPED_NAMES:
        return [lambda: setattr(node, "attr", SWAPPED_NAMES[node.attr])]
    if isinstance(node, ast.Name) and node.id in ("min", "max", "any", "all"):
        return [lambda: setattr(node, "id", SWAPPED_NAMES[node.id])]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [lambda: setattr(node, "value", not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return [lambda: setattr(node, "value", node.value + 1 if isinstance(node.value, int) else node.value * 2)]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return [lambda: setattr(node, "value", ast.Constant(None))]
    if isinstance(node, ast.Call):
        return _changed_call(node)
    return []


def _changed_call(node: ast.Call) -> list:
    changes = [lambda number=number: node.keywords.pop(number) for number in range(len(node.keywords))]
    if getattr(node.func, "id", getattr(node.func, "attr", "")) in STREAMS and len(node.args) > 1:
        changes.append(lambda: node.args.pop())
    return changes


# ---------------------------------------------------------------------------------------------------------- running


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Hands out one module with its fault, and every other as it is."""

    def __init__(self, module: str, source: str, path: Path) -> None:
        self.module, self.source, self.path = module, source, path

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Of the one module only."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """The code with the fault, under the file's own name."""
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def notices(fault: Fault, patience: float) -> bool:
    """Whether the tests that guard the file fail, or do not end, with ``fault`` in it."""
    child = os.fork()
    if child == 0:
        _run_tests(fault)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run_tests(fault: Fault) -> None:
    code = 3
    try:
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(silent, number)
        module = ".".join(Path(fault.file).with_suffix("").parts)
        for name in [name for name in sys.modules if name.split(".")[0] in OURS or name.startswith("test_")]:
            del sys.modules[name]  # whoever started this may have the code without the fault
        sys.meta_path.insert(0, _Planted(module, fault.source, ROOT / fault.file))
        import pytest

        tests = [str(ROOT / "tests" / name) for name in GUARDS[fault.file]]
        code = int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]))
    finally:
        os._exit(code)


def known(path: Path = KNOWN) -> dict[tuple[str, str], str]:
    """Survivors that are looked at already: (file, fault) -> the reason why no test can or should notice."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", []) if path.is_file() else []
    return {(entry["file"], entry["fault"]): entry["reason"] for entry in entries}


def chosen(count: int, seed: int, files: Sequence[str]) -> list[Fault]:
    """``count`` faults, spread over ``files`` as their sizes are, the same for the same seed."""
    every = [fault for file in files for fault in faults(file, (ROOT / file).read_text(encoding="utf-8"))]
    return sorted(random.Random(seed).sample(every, min(count, len(every))), key=lambda f: (f.file, f.line))


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, run, report; exit code 1 if fewer than nine in ten are caught, known survivors aside."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("files", nargs="*", default=list(GUARDS), help="source files (all that have guards)")
    parser.add_argument("--count", type=int, default=300, help="faults to plant (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among all possible faults (0)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="at the same time")
    parser.add_argument("--patience", type=float, default=180, help="seconds until a run counts as hanging (180)")
    given = parser.parse_args(arguments)
    if strange := [file for file in given.files if file not in GUARDS]:
        parser.error(f"no tests are named for {strange[0]}; choose from: {', '.join(GUARDS)}")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/benchmarks")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in HEAVY:
        importlib.import_module(name)
    planted, reasons, survivors, excused = chosen(given.count, given.seed, given.files), known(), [], 0
    write = sys.stdout.write
    with ThreadPoolExecutor(given.jobs) as pool:
        for number, (fault, caught) in enumerate(
            zip(planted, pool.map(lambda fault: notices(fault, given.patience), planted), strict=True), 1
        ):
            if not caught and (fault.file, fault.name) in reasons:
                excused += 1
            elif not caught:
                survivors.append(fault)
                write(f"[{number}/{len(planted)}] survives: {fault.file}:{fault.line}: {fault.name}\n")
            elif number % 20 == 0:
                write(f"[{number}/{len(planted)}]\n")
            sys.stdout.flush()
    caught = len(planted) - len(survivors) - excused
    share = caught / max(1, len(planted) - excused)
    write(f"{caught} of {len(planted)} faults caught, {excused} known survivors, {len(survivors)} new: {share:.0%}\n")
    return int(share < WANTED)


if __name__ == "__main__":
    sys.exit(main())
