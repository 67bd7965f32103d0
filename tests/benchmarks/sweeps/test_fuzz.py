"""Commands that nobody would think of: each is answered, in a few lines, with an honest exit code."""

import os

import grammar
import pytest
from forking import Answer, Forking
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_records import made

from benchmarks.records.store import Store
from benchmarks.storage.entry_point import command_names

WARMING = [
    ["--cfg", "job"],
    ["-m", "seed=0", "--cfg", "job"],
    ["seed=abc", "--dry-run"],
    ["-m", "seed=abc,1", "--dry-run"],
]
LINES = 4

pytestmark = pytest.mark.slow


def drawn(number):
    """So many examples, of commands that take as long as they take."""
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which commands are typed, with a pipe, a folder, and files in it."""
    folder = tmp_path_factory.mktemp("fuzz")
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "file").touch()
    (folder / "junk").write_bytes(bytes(range(256)))
    store = Store(folder / "records/runs", folder / "records/cells")
    for seed in range(4):
        store.write(made(seed, status="failed" if seed == 3 else "done"))
    return folder


@pytest.fixture(scope="module")
def ask(place):
    """Asks a command, and looks at the form of the answer."""
    names = ("SECATEURS_CACHE", "SECATEURS_CONF", "WANDB_API_KEY", "PYTEST_CURRENT_TEST")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    own = {"OMP_NUM_THREADS": "1", "SECATEURS_DATA": "", "HF_HUB_OFFLINE": "1", "HOME": str(place), "COLUMNS": "200"}
    with Forking(kept | own, place, WARMING) as forking:

        def asked(module, words):
            answer = forking(module, grammar.placed(words, place))
            require_form(answer)
            return answer

        yield asked


def require_form(answer: Answer) -> None:
    """No traceback, no silence, no stray exit code, and few lines where a command is refused."""
    assert not answer.silent, f"{answer} said nothing for too long"
    assert "Traceback" not in answer.out + answer.err, answer
    assert answer.code in (0, 1, 2), answer
    if answer.code == 2:
        lines = answer.err.strip().splitlines()
        assert 1 <= len(lines) <= LINES, answer


TINY = ["trainer=tiny", "track=none", "paths.results=results", "paths.cache=cache"]


def dry(words):
    return [*TINY, *words, "--dry-run"]


@given(grammar.RIGHT)
@drawn(40)
def test_right_commands_are_listed(ask, words):
    answer = ask("run", dry(words))
    assert answer.code == 0, answer
    assert "missing" in answer.out


@given(grammar.WRONG, grammar.METHOD, st.booleans())
@drawn(90)
def test_wrong_commands_are_refused(ask, word, method, sweep):
    answer = ask("run", [*["-m"] * sweep, *dry([method, word])])
    assert answer.code == 2, answer
    assert answer.out == "", answer


@given(grammar.MISFIT, st.booleans())
@drawn(20)
def test_parts_that_cannot_work_together_are_refused(ask, words, sweep):
    answer = ask("run", [*["-m"] * sweep, *dry(words)])
    assert answer.code == 2, answer
    assert answer.out == "", answer


@given(grammar.ANYTHING)
@drawn(80)
def test_any_words_are_answered(ask, words):
    answer = ask("run", dry(words))
    assert answer.code in (0, 2), answer


LONG = {
    "seeds": (["-m", "seed=range(0,30000000)"], "30,000,000 values; one call plans at most 100,000"),
    "shuffled": (["-m", "seed=shuffle(range(0,30000000))"], "one call plans at most 100,000"),
    "never ends": (["-m", "seed=range(0,1,0)"], "no end of values"),
    "fractions": (["-m", "budget.keep=range(0,1e9,0.5)"], "2,000,000,000 values"),
    "product": (["-m", "seed=range(0,1000)", "calibration.samples=range(1,1000)"], "a sweep of 999,000 cells"),
    "steps": (["schedule=iterative", "schedule.steps=1000000"], "schedule.steps=1000000"),
    "devices": (["trainer.train.devices=100"], "trainer.train.devices=100"),
    "checkpoint": (["dense.checkpoint=FIFO"], "there is no such file"),
    "record": (["from_record=FIFO"], "a named pipe, not a file"),
    "counts": (["allocation=copy", "allocation.record=FIFO"], "allocation.record"),
    "images": (["dataset=imagefolder", "dataset.name=mine", "dataset.source=FIFO"], "dataset.source"),
    "tables": (["dataset=mnist", "dataset.source=FIFO"], "is not a folder"),
    "results": (["paths.results=FIFO"], "not a folder"),
    "cache": (["paths.cache=FIFO"], "Not a directory: 'FIFO/hydra'"),
    "configurations": (["--config-dir=FIFO"], "FIFO"),
}


@pytest.mark.parametrize("words,said", LONG.values(), ids=LONG)
def test_absurd_sizes_and_pipes_are_refused_at_once(ask, place, words, said):
    answer = ask("run", [*words, "--dry-run"] if "from_record=FIFO" in words else dry(words))
    assert answer.code == 2, answer
    assert said.replace("FIFO", str(place / "fifo")) in answer.err


def test_every_command_has_a_grammar():
    assert {name.split()[0] for name in grammar.OPTIONS} == set(command_names())


@pytest.mark.parametrize("name", grammar.OPTIONS)
def test_any_words_are_answered_by_every_command(ask, name):
    @given(grammar.commands(name))
    @drawn(12)
    def answered(words):
        module = f"benchmarks.{name.split()[0]}"
        answer = ask(module, words)
        assert answer.code != 0 or "--nope" not in words, answer

    answered()
