"""What trains, prunes or measures in a test does so where ``pytest --device`` says, or the test says why not."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("test_*.py"))
METHODS = {"prune", "finetune"}  # of whatever object: these names have one meaning in the project
FUNCTIONS = {  # by room, which may hand on what another defines
    "benchmarks.cells.cell": {"run"},
    "benchmarks.training": {"fit", "evaluate", "accuracy_of", "dense_network"},
    "benchmarks.measure": {"count", "count_layers", "difference", "recalibrated"}
    | {f"measure_{what}" for what in ("latency", "memory", "quantised", "size")},
    "benchmarks.zoo.examine": {"examine"},
    "secateurs": {"run", "check_method", "check_one"},
}
PLACES = {"device", "accelerator"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def imported(tree: ast.Module) -> dict[str, str]:
    """Whole names of what a file imports, by the names that it uses."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):  # without another name it gives the first part, and the rest is in the calls
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def opens_a_door(function: Function, names: dict[str, str]) -> bool:
    """Whether it calls one of the public functions that train, prune or measure."""
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
            return True
        first, _, rest = ast.unparse(call.func).partition(".")
        room, _, name = ".".join(filter(None, (names.get(first, first), rest))).rpartition(".")
        if any(f"{room}.".startswith(f"{each}.") and name in FUNCTIONS[each] for each in FUNCTIONS):
            return True
    return False


def arguments(function: Function) -> set[str]:
    return {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}


def calls(function: Function) -> set[str]:
    """Names that it uses or takes, among which are the helpers and fixtures of its file."""
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} | arguments(function)


def marks(nodes: list[ast.expr]) -> Iterator[ast.Call]:
    for node in nodes:
        parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
        yield from (part for part in parts if isinstance(part, ast.Call))


def marked(nodes: list[ast.expr]) -> bool:
    """By ``usefixtures`` with a place, or by ``cpu`` with a reason of some words."""
    for mark in marks(nodes):
        words = [each.value for each in mark.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        name = ast.unparse(mark.func)
        if name == "pytest.mark.usefixtures" and PLACES & set(words):
            return True
        if name == "pytest.mark.cpu" and len(" ".join(words).split()) >= 3:
            return True
    return False


@cache
def placed_folder(folder: Path) -> bool:
    """Whether the fixtures of a folder, or of one around it, bring every test of it to the device."""
    file = folder / "conftest.py"
    if file.is_file() and folder != TESTS:
        fixtures = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
        always = [each for each in fixtures if "autouse=True" in "".join(map(ast.unparse, each.decorator_list))]
        if any(arguments(each) & PLACES for each in always):
            return True
    return folder != TESTS and placed_folder(folder.parent)


def homeless(tree: ast.Module) -> list[str]:
    """Tests of a file that train, prune or measure, and neither take a place nor say why."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}
    names = imported(tree)
    own = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    if marked(own):
        return []
    found = []
    for test in (node for name, node in functions.items() if name.startswith("test_")):
        seen, waiting = set(), [test.name]
        while waiting:
            seen.add(name := waiting.pop())
            waiting += [each for each in calls(functions[name]) if each in functions and each not in seen]
        used = [functions[name] for name in seen]
        takes = any(arguments(each) & PLACES for each in used) or marked(test.decorator_list)
        if not takes and any(opens_a_door(each, names) for each in used):
            found.append(test.name)
    return found


IMPORTS = "import pytest\nfrom benchmarks.cells import cell\nfrom benchmarks.training.trainer import fit as train\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def test_a():\n    Pruner().prune(1)", ["test_a"]),
        ("def test_a():\n    train(1)", ["test_a"]),
        ("def test_a():\n    fit(1)", []),
        ("def test_a(tmp_path):\n    cell.run(1)", ["test_a"]),
        ("def made():\n    return cell.run(1)\ndef test_a():\n    made()", ["test_a"]),
        ("@pytest.fixture\ndef made():\n    return cell.run(1)\ndef test_a(made):\n    pass", ["test_a"]),
        ("@pytest.fixture\ndef made(accelerator):\n    return cell.run(1)\ndef test_a(made):\n    pass", []),
        ("def test_a(device):\n    Pruner().prune(1)", []),
        ("@pytest.mark.usefixtures('accelerator')\ndef test_a():\n    cell.run(1)", []),
        ("@pytest.mark.usefixtures('tmp_path')\ndef test_a():\n    cell.run(1)", ["test_a"]),
        ("@pytest.mark.cpu('in a process of its own')\ndef test_a():\n    cell.run(1)", []),
        ("@pytest.mark.cpu\ndef test_a():\n    cell.run(1)", ["test_a"]),
        ("@pytest.mark.cpu('no')\ndef test_a():\n    cell.run(1)", ["test_a"]),
        ("pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('device')]\ndef test_a():\n    x.prune(1)", []),
    ],
)
def test_the_reader_of_places_sees_them(source, found):
    assert homeless(ast.parse(IMPORTS + source)) == found


@pytest.mark.slow
def test_what_trains_prunes_or_measures_takes_a_device_or_says_why_not():
    found = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in FILES
        if not placed_folder(path.parent)
        for name in homeless(ast.parse(path.read_text()))
    ]
    assert found == [], "a test that trains, prunes or measures takes device or accelerator (tests/conftest.py)"


def test_the_doors_are_there():
    """A function that is renamed would be watched no longer."""
    text = {room: "".join(path.read_text() for path in files_of(room)) for room in FUNCTIONS}
    missing = [name for room, names in FUNCTIONS.items() for name in names if f"def {name}(" not in text[room]]
    assert missing == []


def files_of(room: str) -> list[Path]:
    place = TESTS.parent / room.replace(".", "/")
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
