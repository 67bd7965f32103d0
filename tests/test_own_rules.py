"""What the tests promise of themselves: seeds are explicit, and no private name of the project is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
PACKAGES = ("methods", "benchmarks", "secateurs", "hydra_plugins")
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "rand_like", "randn_like", "randint_like", "bernoulli"}
DRAWS |= {"multinomial", "poisson"}
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "cauchy_", "geometric_", "log_normal_"}
OWN_STATE = {"default_rng", "Generator", "SeedSequence", "PCG64", "RandomState"}
WITHOUT_SEED = {"secateurs/test_testing.py: return torch.rand(layer.size)": "the fault that is to be noticed"}
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def calls_by_scope(tree: ast.Module) -> Iterator[tuple[list[Scope], ast.Call]]:
    """Every call, with the functions around it, the outermost first."""

    def walk(node: ast.AST, around: list[Scope]) -> Iterator[tuple[list[Scope], ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield around, child
            yield from walk(child, [*around, child] if isinstance(child, ast.FunctionDef) else around)

    yield from walk(tree, [tree])


def draws(call: ast.Call, names: dict[str, str]) -> bool:
    """Whether ``call`` draws from a global random state; ``names`` are what was imported, under their whole names."""
    name = dotted(call.func)
    first, _, rest = name.partition(".")
    name = f"{names.get(first, first)}.{rest}" if rest else names.get(first, first)
    module, _, function = name.rpartition(".")
    given = {keyword.arg for keyword in call.keywords}
    if module == "torch":
        return function in DRAWS and "generator" not in given
    if module == "numpy.random":
        return function not in OWN_STATE or not (call.args or call.keywords)
    if module == "random" and names.get("random") == "random":
        return function not in {"Random", "SystemRandom"} or not call.args
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if module.endswith("nn.init"):
        return function not in {"zeros_", "ones_", "constant_", "eye_"} and "generator" not in given
    return method in IN_PLACE and "generator" not in given


def imported(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "random", "numpy.random"):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def seeded(scope: Scope) -> bool:
    """Whether a function seeds the global state itself, in whatever function inside it."""
    body = scope.body if isinstance(scope, ast.Module) else [scope]
    if isinstance(scope, ast.Module):  # what a module does on top, not inside its functions
        body = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    nodes = (node for part in body for node in ast.walk(part))
    return any(isinstance(node, ast.Call) and dotted(node.func) == "torch.manual_seed" for node in nodes)


def unseeded(tree: ast.Module) -> list[int]:
    names = imported(tree)
    found = calls_by_scope(tree)
    return [call.lineno for around, call in found if draws(call, names) and not any(map(seeded, around[-2:]))]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import torch\ntorch.randn(3)", [2]),
        ("from torch import randn as noise\nnoise(3)", [2]),
        ("import torch\ndef f(g):\n    return torch.randn(3, generator=g)", []),
        ("import torch\ndef f():\n    torch.manual_seed(0)\n    return torch.randn(3)", []),
        ("import torch\ntorch.manual_seed(0)\ndef f():\n    def g():\n        return torch.randn(3)", [5]),
        (
            "import numpy as np\nnp.random.normal(3)\nnp.random.default_rng(1).normal(3)\nnp.random.default_rng()",
            [2, 4],
        ),
        ("import random\nrandom.shuffle([])\nrandom.Random(3).random()", [2]),
        ("import torch\nx = torch.zeros(3)\nx.normal_()\nx.uniform_(generator=1)", [3]),
    ],
)
def test_the_reader_of_draws_sees_them(source, lines):
    assert unseeded(ast.parse(source)) == lines


@pytest.mark.slow
def test_every_draw_names_its_seed():
    """By a generator, or by ``torch.manual_seed`` in the same function: no test depends on those before it."""
    found = []
    for path in FILES:
        text = path.read_text()
        lines = text.splitlines()
        found += [f"{path.relative_to(TESTS)}: {lines[line - 1].strip()}" for line in unseeded(ast.parse(text))]
    assert sorted(found) == sorted(WITHOUT_SEED)


# Private names of others that tests use all the same, since nothing public says the same.
FOREIGN = {
    "_exit": "os._exit ends a process as a kill does, without cleaning up",
    "_dynamo": "torch._dynamo is imported ahead, under the only name that it has",
    "_shutdown": "threading._shutdown is what the interpreter calls before multiprocessing waits for children",
    "_forward_hooks": "PyTorch lists a module's hooks nowhere else",
    "_forward_pre_hooks": "the same",
    "_global_forward_hooks": "the same, of all modules",
    "_global_forward_pre_hooks": "the same",
}


BACKEND = {"emulated.py": "PyTorch's Python backend, which emulates a device, has no public names"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reached_for(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private names that a file imports from our packages, or reads from anything but its own classes and functions."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            base = dotted(node.value).partition(".")[0]
            if base not in ("self", "cls") and node.attr not in own and node.attr not in FOREIGN:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            # a reproduction's shared file is _so_called to tell it from those that have a name on the command line
            shared = (node.module or "").startswith("benchmarks.reproductions.")
            folder = TESTS.parent / (node.module or "").replace(".", "/")
            for alias in node.names:
                if private(alias.name) and not (shared and (folder / f"{alias.name}.py").is_file()):
                    yield node.lineno, alias.name
            parts = (node.module or "").split(".")
            yield from ((node.lineno, part) for part in parts if private(part) and not shared)


def patched(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private names that a file replaces by ``monkeypatch.setattr(object, "_name", ...)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).endswith(".setattr") and node.args:
            words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            names = [part for word in words for part in word.split(".") if private(part) and part not in FOREIGN]
            yield from ((node.lineno, name) for name in names)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from methods.hook import _a, b", ["_a"]),
        ("from benchmarks._room import a", ["_room"]),
        ("import methods\nmethods.x._y()", ["_y"]),
        ("class A:\n    def f(self):\n        return self._x", []),
        ("import os\nos._exit(1)", []),
        ("from benchmarks.reproductions.lq import _sap\n_sap._rule()", ["_rule"]),
        ("from benchmarks.reproductions.lq._sap import rule", []),
        ("monkeypatch.setattr('methods.a._b', 1)", ["_b"]),
        ("monkeypatch.setattr(thing, '_b', 1)", ["_b"]),
    ],
)
def test_the_reader_of_private_names_sees_them(source, names):
    tree = ast.parse(source)
    assert [name for _, name in (*reached_for(tree), *patched(tree))] == names


@pytest.mark.slow
def test_tests_use_public_names_only():
    found = []
    for path in (path for path in FILES if path.name not in BACKEND):
        tree = ast.parse(path.read_text())
        found += [f"{path.relative_to(TESTS)}:{line}: {name}" for line, name in (*reached_for(tree), *patched(tree))]
    assert found == []


def test_every_exception_is_needed():
    tests = "".join(path.read_text() for path in FILES if path != Path(__file__))
    assert [name for name in FOREIGN if name not in tests] == []


def excused_by_a_note(tree: ast.Module) -> list[int]:
    """Lines that assert ``note is not None or ...`` or ``note or ...``: any note at all would pass."""
    found = []
    for node in (each.test for each in ast.walk(tree) if isinstance(each, ast.Assert)):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            parts = [ast.unparse(part).removesuffix(" is not None") for part in node.values]
            found += [node.lineno] if any(part.rpartition(".")[2] == "note" for part in parts) else []
    return found


@pytest.mark.slow
def test_no_missed_budget_is_excused_by_whatever_note():
    assert excused_by_a_note(ast.parse("assert pruned.note is not None or size == 3")) == [1]
    assert excused_by_a_note(ast.parse("assert note or size == 3\nassert note is None or size == 3")) == [1]
    places = [*FILES, *(TESTS.parent / "secateurs").rglob("*.py")]
    found = [f"{path.name}:{line}" for path in places for line in excused_by_a_note(ast.parse(path.read_text()))]
    assert found == []
