"""Every module that ``python -m`` could run is a command or says that it is none."""

import pytest

from benchmarks.storage.entry_point import command_names, require_command
from benchmarks.storage.paths import REPOSITORY

FILES = [path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / "benchmarks").rglob("*.py"))]
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__").removesuffix(".__main__") for path in FILES}


@pytest.mark.parametrize("written", [["-m{}"], ["-m", "{}"], ["-X", "dev", "-m", "{}"], ["-um", "{}"]])
def test_a_module_that_is_no_command_says_so(capsys, written):
    told = []
    for module in sorted(MODULES - {"benchmarks"}):
        words = ["python", *(word.format(module) for word in written)]
        try:
            require_command(words)
        except SystemExit as end:
            assert end.code == 2
            assert f"{module} is no command" in capsys.readouterr().err
            told.append(module)
    assert {module.removeprefix("benchmarks.") for module in MODULES - {*told, "benchmarks"}} == set(command_names())
    assert len(told) > 100


def test_other_packages_and_scripts_are_none_of_our_business(capsys):
    for words in (["python", "run.py"], ["python", "-m", "pytest"], ["python", "-c", "pass"], ["python"]):
        require_command(words)  # would end the process
        assert capsys.readouterr() == ("", "")
