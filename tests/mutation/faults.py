"""Small faults that could be planted in a source file: what each changes, where, and the source with it."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPARED = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
SWAPPED_NAMES = {
    **{"train": "validation", "validation": "test", "test": "validation"},
    **{"dense": "pruned", "pruned": "dense", "tuned": "pruned", "inputs": "targets", "labels": "inputs"},
    **{"finetune": "train", "min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"},
}
# Words for people, and what is the same with and without: no fault in them would be one.
SPOKEN = {
    *("BadInput", "Skipped", "Collapsed", "Lost", "ValueError", "RuntimeError", "TypeError", "KeyError"),
    *("warning", "info", "debug", "track", "write", "print", "getLogger"),
}
IDLE_KEYWORDS = {
    *("strict", "encoding", "exist_ok", "parents", "label", "flush", "unit", "stacklevel", "device", "missing_ok"),
    *("repr", "init", "non_blocking", "copy", "description", "name", "prog", "help"),
}
CONVERSIONS = {
    *("list", "tuple", "dict", "int", "float", "str", "Path", "iter", "cast", "frozenset", "set", "bool", "repr"),
    *("isinstance", "issubclass", "hasattr", "getattr", "super", "len", "range", "enumerate", "type", "suppress"),
    *("field", "open", "asdict", "replace", "TypeVar", "import_module"),
}
COMMUTATIVE = {"max", "min", "maximum", "minimum", "equal", "allclose", "isclose", "gcd", "dot"}
OPTIONAL_STEPS = {"abs", "clone", "sqrt", "square", "sort", "mean", "sum", "eval", "min", "max", "t", "strip", "lower"}

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Change = Callable[[ast.AST], "ast.AST | None"]


@dataclass(frozen=True)
class Site:
    """One change at one place: ``change`` of the node at ``path`` (fields and indices from the module down)."""

    path: tuple[tuple[str, int | None], ...]
    kind: str
    change: Change
    function: str
    at_import: bool  # whether the code runs when the module is imported


@dataclass(frozen=True)
class Fault:
    """One planted fault."""

    file: str
    line: int
    kind: str
    name: str  # how it is listed among the survivors that are known: stays when lines move
    text: str
    site: Site

    @functools.cached_property
    def source(self) -> str:
        """The whole file with the fault."""
        tree = ast.parse(self.text)
        _put(tree, self.site.path, self.site.change(_at(tree, self.site.path)) or ast.Pass())
        return ast.unparse(ast.fix_missing_locations(tree))

    @property
    def code(self) -> str:
        """:attr:`source` without docstrings, which no verdict depends on."""
        tree = ast.parse(self.source)
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
        return ast.unparse(ast.fix_missing_locations(tree))


def faults(file: str, text: str) -> list[Fault]:
    """Every fault that can be planted in ``text``."""
    tree, found = ast.parse(text), []
    for site in _sites(tree):
        node = _at(tree, site.path)
        changed = site.change(copy.deepcopy(node))
        was, now = _shown(node), "nothing" if changed is None else _shown(changed)
        if was != now:
            where = f"{site.function}: " if site.function else ""
            line = getattr(node, "lineno", 0)
            found.append(Fault(file, line, site.kind, f"{where}{was} -> {now}", text, site))
    return found


def chosen(count: int, seed: int, files: Mapping[str, str]) -> list[Fault]:
    """``count`` faults of ``files`` (path -> text), the same for a seed while the code is.

    Files get shares in proportion to the root of their number of possible faults, kinds of faults equal parts of it.
    Each fault has a lot of its own, so that a change elsewhere in the file does not exchange it for another.
    """
    possible = {file: _by_lot(faults(file, text), seed) for file, text in files.items()}
    total = sum(math.sqrt(len(found)) for found in possible.values()) or 1.0
    lots = []
    for file, found in possible.items():
        share = count * math.sqrt(len(found)) / total
        lots += [((rank + 0.5) / share, file, rank, fault) for rank, fault in enumerate(found)]
    picked = [fault for *_, fault in sorted(lots, key=lambda lot: lot[:3])[:count]]
    return sorted(picked, key=lambda fault: (fault.file, fault.line, fault.name))


def _by_lot(found: Sequence[Fault], seed: int) -> list[Fault]:
    once = {fault.name: fault for fault in found}.values()  # the same words twice in a function: one of them
    lot = {fault: hashlib.sha256(f"{seed} {fault.file} {fault.name}".encode()).hexdigest() for fault in once}
    ranks: Counter[str] = Counter()
    order = []
    for fault in sorted(once, key=lot.__getitem__):
        order.append((ranks[fault.kind], lot[fault], fault))
        ranks[fault.kind] += 1
    return [fault for *_, fault in sorted(order, key=lambda entry: entry[:2])]


def files_of(root: Path, names: Sequence[str]) -> dict[str, str]:
    """The text of each file."""
    return {name: (root / name).read_text(encoding="utf-8") for name in names}


def switched(text: str, numbered: Mapping[int, Fault]) -> str:
    """The file with all of ``numbered`` faults in it, each behind a switch: ``_fault(number)`` says if it is on."""
    pristine, tree = ast.parse(text), ast.parse(text)
    for number, fault in sorted(numbered.items(), key=lambda entry: -len(entry[1].site.path)):
        path, asked = fault.site.path, ast.parse(f"_fault({number})", mode="eval").body
        changed = fault.site.change(copy.deepcopy(_at(pristine, path)))
        now = _at(tree, path)
        if isinstance(now, ast.stmt):
            _put(tree, path, ast.If(asked, [changed or ast.Pass()], [now]))
        else:
            _put(tree, path, ast.IfExp(asked, changed, now))
    for number, fault in numbered.items():
        if fault.site.path[-2:-1] == (("args", None),):  # a default: the tests that call the function could notice
            function = _at(tree, fault.site.path[:-2])
            function.body.insert(int(ast.get_docstring(function) is not None), ast.parse(f"_fault({number})").body[0])
    head = [ast.get_docstring(tree) is not None, *(_is_future(statement) for statement in tree.body)].count(True)
    tree.body.insert(head, ast.parse("from planted import fault as _fault").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


# ------------------------------------------------------------------------------------------------------------- places


def _at(tree: ast.AST, path: Sequence[tuple[str, int | None]]) -> ast.AST:
    for name, index in path:
        child = getattr(tree, name)
        tree = child if index is None else child[index]
    return tree


def _put(tree: ast.AST, path: Sequence[tuple[str, int | None]], new: ast.AST) -> None:
    *way, (name, index) = path
    parent = _at(tree, way)
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new


def _shown(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        return f"if {ast.unparse(node.test)}"[:160]
    return " ".join(ast.unparse(node).split())[:160]


def _sites(tree: ast.Module) -> Iterator[Site]:
    yield from _visit(tree, (), _Scope("", True, {}))


@dataclass(frozen=True)
class _Scope:
    function: str
    at_import: bool
    attributes: Mapping[str, tuple[str, ...]]  # of each name: what the function reads of it


def _visit(node: ast.AST, path: tuple[tuple[str, int | None], ...], scope: _Scope) -> Iterator[Site]:
    for step, child in _children(node):
        if _only_words(child):
            continue
        below, here = scope, (*path, *step)
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{scope.function}.{child.name}".lstrip(".")
            if child.name == "__repr__":
                continue
            whole = isinstance(child, ast.ClassDef)
            below = _Scope(inner, whole and scope.at_import, {} if whole else _attributes(child))
        for kind, change in _changes(child, below.attributes):
            yield Site(here, kind, change, below.function, below.at_import or step[0][0] == "args")
        for further, test in _conditions(child):
            if not _negated_elsewhere(test):
                yield Site((*here, further), "condition", _negated, below.function, below.at_import)
        yield from _visit(child, here, below)


def _children(node: ast.AST) -> Iterator[tuple[tuple[tuple[str, int | None], ...], ast.AST]]:
    """Steps to each child and the child; of a function its defaults and its body, of a class its body."""
    if isinstance(node, ast.FunctionDef):
        for name in ("defaults", "kw_defaults"):
            for index, value in enumerate(getattr(node.args, name)):
                if isinstance(value, ast.Constant):
                    yield (("args", None), (name, index)), value
    skipped: tuple[str, ...] = ("pattern",)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        skipped = ("decorator_list", "returns", "args", "bases", "keywords", "type_params")
    elif isinstance(node, ast.AnnAssign | ast.Lambda):
        skipped = ("annotation", "target", "args")
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        if isinstance(value, list):
            yield from ((((name, index),), child) for index, child in enumerate(value) if isinstance(child, ast.AST))
        elif isinstance(value, ast.AST):
            yield ((name, None),), value


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _only_words(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr | ast.AsyncFunctionDef):
        return True
    if isinstance(node, ast.keyword) and node.arg in IDLE_KEYWORDS:
        return True
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
    ):
        return True
    call = node.value if isinstance(node, ast.Expr) else node
    return isinstance(call, ast.Call) and _called(call) in SPOKEN


def _attributes(function: ast.AST) -> dict[str, tuple[str, ...]]:
    called = {id(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    found: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and id(node) not in called:
            found.setdefault(node.value.id, set()).add(node.attr)
    return {name: tuple(sorted(attributes)) for name, attributes in found.items()}


# ------------------------------------------------------------------------------------------------------------ changes


def _changes(node: ast.AST, attributes: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Change]]:
    """What can be done to ``node``: (kind, a function that returns what stands there instead, None for nothing)."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        yield "comparison", _edit(lambda n: n.ops.__setitem__(0, COMPARED[type(n.ops[0])]()))
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in COMPUTED:
        yield "arithmetic", _edit(lambda n: setattr(n, "op", COMPUTED[type(n.op)]()))
    if isinstance(node, ast.BoolOp):
        yield "and, or", _edit(lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not removed", lambda n: n.operand
    if isinstance(node, ast.Constant):
        yield from _changed_constant(node)
    if isinstance(node, ast.Name) and node.id in ("min", "max", "any", "all"):
        yield "name", _edit(lambda n: setattr(n, "id", SWAPPED_NAMES[n.id]))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield from _changed_attribute(node, attributes)
    if isinstance(node, ast.AugAssign | ast.Break | ast.Continue):
        yield "statement removed", lambda n: None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement removed", lambda n: None
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript):
        yield "statement removed", lambda n: None
    if isinstance(node, ast.Call):
        yield from _changed_call(node)


def _edit(action: Callable) -> Change:
    def change(node: ast.AST) -> ast.AST:
        action(node)
        return node

    return change


def _conditions(node: ast.AST) -> Iterator[tuple[tuple[str, int | None], ast.expr]]:
    if isinstance(node, ast.If | ast.IfExp):
        yield ("test", None), node.test
    if isinstance(node, ast.comprehension) and node.ifs:
        yield ("ifs", 0), node.ifs[0]


def _negated(node: ast.AST) -> ast.AST:
    return ast.UnaryOp(ast.Not(), node)  # type: ignore[arg-type]  # an expression


def _negated_elsewhere(test: ast.expr) -> bool:
    """Whether a change of ``test`` itself is its negation, or its boundary."""
    return isinstance(test, ast.Compare) or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not))


def _changed_constant(node: ast.Constant) -> Iterator[tuple[str, Change]]:
    if isinstance(node.value, bool):
        yield "flag", _edit(lambda n: setattr(n, "value", not n.value))
    elif isinstance(node.value, int):
        yield "constant", _edit(lambda n: setattr(n, "value", n.value + 1))
    elif isinstance(node.value, float) and node.value:
        yield "constant", _edit(lambda n: setattr(n, "value", n.value * 2))


def _changed_attribute(node: ast.Attribute, attributes: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Change]]:
    if node.attr in SWAPPED_NAMES:
        yield "attribute", _edit(lambda n: setattr(n, "attr", SWAPPED_NAMES[n.attr]))
    elif (
        isinstance(node.value, ast.Name)
        and node.attr in (known := attributes.get(node.value.id, ()))
        and len(known) > 1
    ):
        other = known[(known.index(node.attr) + 1) % len(known)]
        yield "attribute", _edit(lambda n: setattr(n, "attr", other))


def _changed_call(node: ast.Call) -> Iterator[tuple[str, Change]]:
    called, plain = _called(node), not any(isinstance(argument, ast.Starred) for argument in node.args)
    for number, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in IDLE_KEYWORDS:
            yield "argument dropped", _edit(lambda n, number=number: n.keywords.pop(number))
    if called in CONVERSIONS or not plain:
        return
    if len(node.args) > 1:
        yield "argument dropped", _edit(lambda n: n.args.pop())
        if called not in COMMUTATIVE:
            yield "arguments swapped", _edit(lambda n: n.args.__setitem__(slice(0, 2), n.args[1::-1]))
    if node.args:
        yield "call removed", lambda n: n.args[0]
    elif isinstance(node.func, ast.Attribute) and called in OPTIONAL_STEPS:
        yield "call removed", lambda n: n.func.value
