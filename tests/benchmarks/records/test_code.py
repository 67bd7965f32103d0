"""A record's digest of its code: what changes it, what does not, and what is never read."""

import pytest

from benchmarks.records import code
from benchmarks.records.names import frozen
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer

LOOP = "from methods import parts\n"
FILES = {
    "methods/__init__.py": "",
    "methods/pruner.py": LOOP,
    "methods/parts.py": "X = 1\n",
    "methods/family/__init__.py": "",
    "methods/family/mine.py": (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom ..helper import used\n"
        "if TYPE_CHECKING:\n    from methods.other import Unused\n\n\n"
        "class Mine:\n    def scores(self):\n        return used()\n"
    ),
    "methods/helper.py": "def used():\n    from methods.late import later\n    return later\n",
    "methods/late.py": "later = 2\n",
    "methods/other.py": "class Unused: ...\n",
}
TARGETS = ("methods.family.mine.Mine", "methods.family.mine.Mine", "own.package.Class", "")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "REPOSITORY", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    forget()


def forget():
    code.forget()


def digest():
    forget()
    return code.digest(TARGETS)


@pytest.mark.parametrize("name", ["family/mine.py", "helper.py", "late.py", "pruner.py", "parts.py"])
def test_a_change_of_a_part_or_of_what_it_imports_is_another_digest(tree, name):
    before = digest()
    path = tree / "methods" / name
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert digest() != before
    assert code.changed(before, TARGETS) is True


def test_comments_docstrings_layout_and_what_is_not_imported_do_not_count(tree):
    before = digest()
    mine = tree / "methods" / "family" / "mine.py"
    mine.write_text(
        '"""A paper."""\n# a comment\n' + mine.read_text().replace("return used()", "return (\n   used()  )")
    )
    mine.write_text(mine.read_text().replace("def scores(self):", 'def scores(self):\n        "of nodes"'))
    (tree / "methods" / "other.py").write_text("class Unused: changed = True\n")
    assert digest() == before and code.changed(before, TARGETS) is False


def test_an_older_record_is_unknown_and_not_stale(tree):
    assert code.changed(None, TARGETS) is None


def test_a_part_from_elsewhere_counts_by_its_name_and_is_neither_read_nor_imported(tree, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    before = digest()
    forget()
    assert code.digest([*TARGETS[:2], "own.package.Other", ""]) != before
    forget()
    assert code.digest(["methods.../etc/passwd", "methods.nowhere.Class", "", ""])


def test_a_renamed_module_has_one_digest_under_both_names():
    config = Composer(CONF).cell(["method=spectral"])
    targets = code.targets_of(config)
    assert targets[0] == "methods.spectral.selection.SpectralSelection" and len(targets) == 4
    assert code.digest([frozen(target) for target in targets]) == code.digest(targets)


def test_methods_have_digests_of_their_own():
    composer = Composer(CONF)
    digests = {
        name: code.digest(code.targets_of(composer.cell([f"method={name}"]))) for name in ("random", "obs", "dpp")
    }
    assert len(set(digests.values())) == 3
