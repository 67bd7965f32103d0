"""The floor plan: which file may import which, and how full a folder may be."""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("methods", "benchmarks", "secateurs", "hydra_plugins")
FULLEST = 20  # source files in one folder


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, names: set[str]) -> Iterator[str]:
    """Modules of ours that ``path`` imports at any time, also inside functions; not those for type checkers.

    An import inside a function saves time, it opens no circle: two files that need each other are one.
    """
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]

    def inside(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
                yield child
                yield from inside(child)

    for node in inside(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield from {full if full in names else base} & names
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & names


def graph() -> dict[str, set[str]]:
    names = {module_name(path): path for path in sources()}
    return {name: set(imports(path, set(names))) - {name} for name, path in names.items()}


def circle(edges: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_files_import_each_other_in_no_circle():
    edges = graph()
    assert sum(map(len, edges.values())) > 300  # the reader of imports works
    assert circle(edges) == []


def test_every_file_of_ours_that_is_imported_is_there():
    """The type checker passes over missing modules, since those of extras may be missing."""
    names = {module_name(path) for path in sources()}
    for path in (*sources(), *sorted((ROOT / "tests").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wanted = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            wanted += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in wanted:
                ours = module.partition(".")[0] in ("methods", "benchmarks", "secateurs")
                assert not ours or module in names, f"{path.relative_to(ROOT)} imports {module}, which is not there"


def room(name: str) -> str | None:
    """The folder below methods/ or benchmarks/ in which a module lies; those at the top belong to none."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or (ROOT / Path(*parts)).is_dir() else None


def test_rooms_import_each_other_in_no_circle():
    edges: dict[str, set[str]] = defaultdict(set)
    for name, targets in graph().items():
        for target in targets:
            one, other = room(name), room(target)
            if one and other and one != other:
                edges[one].add(other)
    assert len(edges) > 10
    assert circle(edges) == []


def test_methods_never_import_benchmarks():
    text = {path: path.read_text(encoding="utf-8") for path in (ROOT / "methods").rglob("*.py")}
    assert text
    for path, content in text.items():
        assert not re.search(r"^\s*(from|import) benchmarks", content, re.M), path


def test_no_folder_is_crowded():
    full = Counter(str(path.parent.relative_to(ROOT)) for path in sources())
    assert {folder: count for folder, count in full.items() if count > FULLEST} == {}


@pytest.mark.parametrize("package", ["methods", "benchmarks"])
def test_tests_lie_in_folders_that_mirror_the_rooms(package):
    rooms = {path.name for path in (ROOT / package).iterdir() if path.is_dir()} | {""}
    for path in (ROOT / "tests" / package).rglob("test_*.py"):
        inside = path.parent.relative_to(ROOT / "tests" / package).parts
        assert (inside[0] if inside else "") in rooms, path


def test_no_file_imports_private_names_of_another():
    """A leading underscore is a promise that nobody else depends on it; helpers of a family's folder are its own."""
    offenders = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in PACKAGES:
                continue
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            private += [part for part in (node.module or "").split(".") if part.startswith("_")]
            near = (ROOT / Path(*(node.module or "").split(".")[:-1])) == path.parent or (
                ROOT / Path(*(node.module or "").split("."))
            ) == path.parent
            modules = all((path.parent / f"{name}.py").is_file() for name in private)
            if private and not (near and modules):
                offenders.append(f"{path.relative_to(ROOT)}: {', '.join(private)}")
    assert offenders == []


@pytest.mark.slow
def test_a_cell_imports_only_what_its_configuration_needs():
    """Without latency, memory and theory: no runtime, no theory, and of the methods only the one that prunes."""
    script = (
        "import sys, tempfile\n"
        "from benchmarks.cells import cell\n"
        "from benchmarks.settings.home import CONF\n"
        "from benchmarks.sweeps.composition import Composer\n"
        "folder = tempfile.mkdtemp()\n"
        "words = ['dataset=digits', 'dataset.limit=120', 'trainer=tiny', 'measure=none', 'track=none']\n"
        "words += ['method=magnitude', 'model.widths=[12]', 'calibration.samples=16']\n"
        "words += [f'paths.results={folder}/r', f'paths.cache={folder}/c']\n"
        "assert cell.run(Composer(CONF).cell(words)).status == 'done'\n"
        "rooms = ('methods.hessian.', 'methods.dpp.', 'methods.lq.', 'methods.spectral.', 'methods.curvature.')\n"
        "rooms += ('methods.theories.', 'benchmarks.measure.runtimes', 'benchmarks.measure.latency', 'torch_pruning')\n"
        "print(sorted(name for name in sys.modules if name.startswith(rooms)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
