"""What stands under a board's title, and its rows' marks: repair, reconstruction, controls, tuning, older code."""

import shlex

import pytest
from marks import slow_but_for
from rich.console import Console
from sample_records import made

from benchmarks.boards import board, labels, overall
from benchmarks.boards.board_command import command, surroundings
from benchmarks.boards.frame import rows_of, run_of
from benchmarks.boards.layout import CHANGED, RECONSTRUCTED, csv_of, table_of
from benchmarks.boards.provenance import provenance
from benchmarks.leaderboard import unmarked
from benchmarks.records import code
from benchmarks.records.cell_fields import cell_fields
from benchmarks.records.keys import cell_key
from benchmarks.records.schema import Record
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.planning import make_plan
from benchmarks.sweeps.request import Request

COMPOSER = Composer(CONF)


def recorded(*words, accuracy=0.9, sweep="sweep-1", **fields):
    """A record of the cell that ``words`` ask for, as far as boards look at it."""
    config = COMPOSER.cell(list(words))
    values = {
        "key": cell_key(config),
        "status": "done",
        "config": config,
        "dataset": config["dataset"]["name"],
        "model": config["model"]["name"],
        "method": config["method"]["name"],
        "seed": config["seed"],
        "unit": "edge" if "edge" in config["method"]["name"] else "node",
        "budget": cell_fields(config, cell_key(config))["budget"],
        "metrics": {
            "dense": {"accuracy": 0.98},
            "pruned": {"accuracy": accuracy - 0.1},
            "tuned": {"accuracy": accuracy},
        },
        "sweep": sweep,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Record(**(values | fields))


def boards(*records):
    return board.boards(rows_of(records))


def shown(found):
    table = table_of(found)
    place = {name: number for number, name in enumerate(table.columns)}
    return {row[place["method"]]: {name: row[place[name]] for name in place} for row in table.rows}, table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "seeds", "middle", "end"),
    [
        (1, (3,), "; 1 epoch; 1 epoch of fine-tuning; ", "; seed 3"),
        (2, (3, 4), "; 2 epochs; 2 epochs of fine-tuning; ", "; seeds 3, 4"),
        (0, (3,), "; 1 epoch; 0 epochs of fine-tuning; ", "; seed 3"),
    ],
)
def test_one_epoch_is_not_1_epochs(epochs, seeds, middle, end):
    trained = [f"trainer.train.epochs={max(epochs, 1)}", f"trainer.finetune.epochs={epochs}"]
    [found] = boards(*(recorded("dataset=digits", *trained, f"seed={seed}") for seed in seeds))
    line = provenance(found)[0]
    assert middle in line and line.endswith(end)


@pytest.mark.slow
def test_epochs_of_a_part_of_the_data_are_told():
    [found] = boards(recorded("dataset=digits", "trainer.train.samples=640", "trainer.train.epochs=2"))
    assert "; 2 epochs (640 images each); 10 epochs of fine-tuning; " in provenance(found)[0]


@pytest.mark.parametrize(
    "words",
    [
        ["method=magnitude,random", "seed=0,1", "budget.keep=0.5"],
        ["dataset=digits", "method=magnitude", "trainer.finetune.epochs=3", "calibration.samples=77", "seed=4"],
        [
            "dataset=mnist",
            "model=lenet5",
            "method=obs,obd",
            "budget.compression=8,16",
            "dataset.limit=9000",
            "trainer=tiny",
        ],
        ["dataset=cifar10", "model=resnet20", "method=spectral", "budget.speedup=2", "trainer.train.learning_rate=0.2"],
        ["model=mlp", "model.widths=[20,10]", "method=spectral", "tune=null,3", "trainer.finetune.clip_norm=2.0"],
    ],
)
def test_the_command_of_a_board_asks_for_its_cells(words):
    plan = make_plan(COMPOSER, Request(words, True))
    records = [recorded(*cell.overrides) for cell in plan.cells]
    assert {record.key for record in records} == {cell.key for cell in plan.cells}
    rows = rows_of(records)
    run = run_of(rows[0])
    typed = command(rows, run["words"], run["asked"])
    assert typed.startswith("python run.py -m ")
    again = make_plan(COMPOSER, Request(shlex.split(typed)[3:], True))
    assert {cell.key for cell in again.cells} == {record.key for record in records}


def test_an_experiment_is_named_and_what_no_file_describes_has_no_command():
    [found] = boards(recorded("method=random", sweep="digits"), recorded("method=magnitude", sweep="digits_parts"))
    made_by = [note for note in table_of(found).notes if note.startswith("made by")]
    assert made_by == ["made by: python run.py -m +experiment=digits; python run.py -m +experiment=digits_parts"]
    assert surroundings({"dataset": {"name": "nowhere"}}) is None and surroundings({}) is None
    assert not [note for note in table_of(boards(made())[0]).notes if note.startswith("made by")]


def test_dense_accuracy_stands_beside_the_published_one():
    notes = table_of(boards(recorded("dataset=mnist", "model=lenet5", "method=random"))[0]).notes
    assert "dense 98.00 %, published 99.05 % (LeCun et al. 1998" in notes[0] and "tabulated)" in notes[0]
    assert "dense 98.00 %, published: none known" in table_of(boards(recorded("method=random"))[0]).notes[0]


def test_records_of_other_training_share_no_board():
    usual = [recorded(f"method={name}", f"seed={seed}") for name in ("random", "magnitude") for seed in (0, 1)]
    others = {
        "mlp [trainer.finetune.epochs 3]": ["trainer.finetune.epochs=3"],
        "mlp [train.epochs 3]": ["trainer.train.epochs=3"],
        "mlp [dataset.limit 500]": ["dataset.limit=500"],
        "mlp [finetune.learning_rate 0.5]": ["trainer.finetune.learning_rate=0.5"],
    }
    found = boards(*usual, *(recorded("method=random", *words) for words in others.values()))
    cells = [sorted(cell["key"] for cell in each.cells) for each in found]
    assert sorted(map(len, cells)) == [1, 1, 1, 1, 4]
    assert len({each.group["model"] for each in found}) == 5


@pytest.mark.parametrize(
    ("words", "repair"),
    [
        (["method=random"], "none"),
        (["method=random", "compensation=as_published"], "fit, no ridge"),
        (["method=dpp", "compensation=as_published"], "refit, no ridge"),
        (["method=spectral", "compensation=as_published"], "fit, own ridge"),
        (["method=spectral", "compensation=least_squares"], "refit, ridge 0.001"),
        (["method=thinet", "compensation=least_squares", "compensation.refit=false"], "fit, ridge 0.001"),
        (["method=obs_filter"], "filter obs"),
        (["method=kron_obs"], "kronecker"),
    ],
)
def test_a_row_says_with_which_repair_it_was_in_the_same_words_for_all(words, repair):
    rows, table = shown(boards(recorded(*words))[0])
    [row] = [row for name, row in rows.items() if name != "dense"]
    assert row["repair"] == repair
    assert table.columns.index("repair") == table.columns.index("method") + 1 and "repair" not in table.droppable


@pytest.mark.parametrize("path", slow_but_for(sorted((CONF / "method").glob("*.yaml"))))
def test_own_ridges_are_those_of_the_selections_that_have_one(path):
    from benchmarks.settings.arguments import imported
    from methods.selection import Selection

    config = COMPOSER.cell([f"method={path.stem}", "compensation=as_published"])
    selection = imported(config["selection"]["_target_"])
    own = getattr(selection, "ridge", Selection.ridge) is not Selection.ridge
    assert ("own ridge" in labels.repair(config)) == own


def test_reconstructions_are_marked_from_their_presets():
    rows, table = shown(boards(recorded("method=spectral"), recorded("method=magnitude"))[0])
    assert f"spectral {RECONSTRUCTED}" in rows and "magnitude" in rows
    assert any(note.startswith(f"{RECONSTRUCTED} spectral: reconstruction") for note in table.notes)


def copied(name, donor, widths=(9,), seed=0, accuracy=0.9):
    allocation = {"_target_": "methods.allocation.Copied", "widths": {"0": widths[0]}, "donor": donor}
    record = recorded(f"method={name}", f"seed={seed}", accuracy=accuracy)
    config = record.config | {"allocation": allocation}
    return record.model_copy(update={"config": config, "key": cell_key(config)})


def test_controls_stand_with_the_method_whose_layer_sizes_they_have():
    records = [recorded("method=spectral", accuracy=0.9), recorded("method=magnitude", accuracy=0.97)]
    control = copied("random", "spectral").model_copy(update={"metrics": recorded("method=obd", accuracy=0.99).metrics})
    lonely = copied("random", "hap", (8,))
    _rows, table = shown(boards(*records, control, lonely)[0])
    names = [row[table.columns.index("method")] for row in table.rows]
    assert names.index("↳ random (layers of spectral)") == names.index(f"spectral {RECONSTRUCTED}") + 1
    assert "random (layers of hap)" in names
    assert any(note.startswith("↳ belongs to the row above") for note in table.notes)


def test_controls_are_judged_against_their_own_method_and_not_ranked_among_the_others():
    scores = {"spectral": 0.95, "magnitude": 0.94, "thinet": 0.93}
    jitter = (0.0, 0.002, -0.001, 0.001)
    methods = [
        recorded(f"method={name}", f"seed={seed}", accuracy=score + jitter[seed])
        for name, score in scores.items()
        for seed in range(4)
    ]
    random = [copied("random", "spectral", seed=seed, accuracy=0.75 + jitter[seed - 1]) for seed in range(4)]
    near = [copied("magnitude", "spectral", (8,), seed, 0.951 + jitter[seed - 2]) for seed in range(4)]
    [found] = boards(*methods, *random, *near)
    assert {name: len(said.pairs) for name, said in found.verdicts.items()} == {"node": 3}, "three methods, no controls"
    rows, table = shown(found)
    assert rows["↳ random (layers of spectral)"]["rank"] == "worse"
    assert rows["↳ magnitude (layers of spectral)"]["rank"] in ("equal", "undecided")
    assert any(note.startswith("controls are not ranked") for note in table.notes)
    # what a control is called does not hang on how many other methods there are
    [alone] = boards(*methods[:4], *random)
    assert shown(alone)[0]["↳ random (layers of spectral)"]["rank"] == "worse"
    lines = csv_of([found]).splitlines()
    place = lines[0].split(",").index("against_own_method")
    assert [line.split(",")[place] for line in lines if ",random (layers of spectral)," in line] == ["worse"]


def test_tuned_rows_stand_beside_their_default_and_compete_with_as_many_trials():
    words = [[f"method={name}", f"seed={seed}"] for name in ("random", "magnitude", "thinet") for seed in range(3)]
    default = [recorded(*word, accuracy=0.9 - 0.1 * (n // 3) + n / 1000) for n, word in enumerate(words)]
    tuned = [recorded(*word, "tune=4", accuracy=0.99 - 0.1 * (n // 3) + n / 1000) for n, word in enumerate(words)]
    [found] = boards(*default, *tuned)
    assert list(found.verdicts) == ["node", "node, 4 trials"]
    assert {len(said.pairs) for said in found.verdicts.values()} == {3}
    _rows, table = shown(found)
    names = [row[table.columns.index("method")] for row in table.rows]
    for name in ("random", "magnitude", f"thinet {RECONSTRUCTED}"):
        full = name.replace(f" {RECONSTRUCTED}", "")
        mark = f" {RECONSTRUCTED}" if RECONSTRUCTED in name else ""
        assert names[names.index(name) + 1] == f"↳ {full} (tuned, 4 trials){mark}"
    assert any("node and node with 4 trials apart" in note for note in table.notes)
    assert "tuned_trials" in csv_of([found]).splitlines()[0]
    assert overall.comparisons(rows_of([*default, *tuned])) == []


def test_rows_of_older_code_are_marked_and_no_board_is_out_of_date_for_it():
    words = ["method=random"]
    targets = code.targets_of(COMPOSER.cell(words))
    now = recorded(*words, fingerprint={"code": code.digest(targets)})
    then = recorded(*words, fingerprint={"code": "0" * 16})
    unknown = recorded(*words)
    tables = {name: shown(boards(record)[0]) for name, record in {"now": now, "then": then, "unknown": unknown}.items()}
    assert (
        f"random {CHANGED}" in tables["then"][0] and "random" in tables["now"][0] and "random" in tables["unknown"][0]
    )
    assert any("the code has changed since" in note and "random" in note for note in tables["then"][1].notes)
    for write in ("markdown", "latex", "html"):
        marked, plain = (getattr(tables[name][1], write)() for name in ("then", "now"))
        assert marked != plain and unmarked(marked) == unmarked(plain)
    reconstructed = [recorded("method=spectral", fingerprint={"code": value}) for value in ("0" * 16, None)]
    marked, plain = (shown(boards(record)[0])[1] for record in reconstructed)
    for write in ("markdown", "latex", "html"):
        assert unmarked(getattr(marked, write)()) == unmarked(getattr(plain, write)())


@pytest.mark.parametrize("width", [100, 140])
def test_boards_with_repairs_fit_a_terminal(width):
    records = [recorded(f"method={name}") for name in ("spectral", "obs_filter", "magnitude_edge")]
    console = Console(record=True, width=width)
    table_of(boards(*records)[0], compact=True).show(console)
    assert max(map(len, console.export_text().splitlines())) <= width
