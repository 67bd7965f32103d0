import pytest
from sample_records import made

from benchmarks.boards import checklist
from benchmarks.boards.frame import rows_of

MARK = {"torch": "2.13", "cpu": "one"}


def cells(
    methods=("spectral", "random", "magnitude", "obd"), seeds=range(3), values=(0.5, 0.4, 0.3, 0.2, 0.1), **fields
):
    for method in methods:
        for seed in seeds:
            for value in values:
                metrics = {
                    "dense": {"accuracy": 0.98, "loss": 0.1, "macs": 900},
                    "tuned": {"accuracy": 0.97 if value > 0.1 else 0.5, "loss": 0.2},
                }
                yield made(
                    seed,
                    method=method,
                    metrics=metrics,
                    fingerprint=MARK,
                    settings={"method": {"name": method}, "budget": {"keep": value}},
                    budget={"requested": {"keep": value}, "achieved": {"compression": 2.0, "speedup": 2.0}},
                    **fields,
                )


def states(records):
    return {verdict.item: verdict.state for verdict in checklist.examine(rows_of(records))}


def test_a_careful_comparison_passes_all_but_the_number_of_networks():
    found = states(cells())
    assert [item for item, state in found.items() if state == "failed"] == ["R1"]
    assert found["R3"] == "not applicable" and found["A3"] == "for the author"


@pytest.mark.parametrize(
    ("records", "item"),
    [
        (cells(values=(0.5, 0.4, 0.3, 0.1)), "R5"),
        (cells(seeds=range(2)), "R6"),
        (cells(seeds=range(2)), "C11"),
        (cells(values=(0.9, 0.5, 0.4, 0.3, 0.2)), "C9"),
        (cells(methods=("spectral", "magnitude", "obd")), "D14"),
        (cells(methods=("spectral", "random", "obd")), "D16"),
        (cells(methods=("spectral", "random", "magnitude")), "A1"),
        ([*cells(), *cells(values=(0.1,), methods=("dpp",), layers=[{"name": "0", "units": 10, "kept": 3}])], "D15"),
        ([*cells(), made(7, fingerprint={"torch": "1.0", "cpu": "x"})], "R7"),
        ([*cells(), made(7)], "R2"),
        ([*cells(), made(7)], "B8"),
    ],
)
def test_each_fault_is_found(records, item):
    assert states(records)[item] == "failed"


def test_proof_names_the_records():
    records = list(cells())
    verdicts = {verdict.item: verdict for verdict in checklist.examine(rows_of(records))}
    failing = {record.key for record in records if record.metrics.tuned.accuracy == 0.5}
    assert set(verdicts["C9"].keys) == failing
    controls = {record.key for record in records if record.method == "random"}
    assert set(verdicts["D14"].keys) == controls


def test_pairs_with_too_few_trained_networks_are_named_and_no_others():
    enough, few = list(cells()), list(cells(seeds=[0], model="lenet"))
    verdicts = {verdict.item: verdict for verdict in checklist.examine(rows_of([*enough, *few]))}
    assert verdicts["C11"].state == "failed"
    assert set(verdicts["C11"].keys) <= {record.key for record in few} and verdicts["C11"].keys


def test_a_control_on_a_network_of_other_widths_is_none():
    def cell(method, width):
        model = {"name": "mlp", "widths": [width]}
        settings = {"model": model, "method": {"name": method}}
        return made(method=method, settings=settings, metrics={"tuned": {"accuracy": 0.9}})

    own = [cell(method, 10) for method in ("dpp", "spectral", "random")]
    assert states(own)["D14"] == "passed"
    assert states([*own[:2], cell("random", 50)])["D14"] == "failed"


def test_nothing_passes_on_nothing():
    assert "passed" not in states([]).values()
    assert checklist.line(checklist.examine([])).startswith("checklist: 0 of ")


def test_table_has_every_item():
    verdicts = checklist.examine(rows_of(cells()))
    table = checklist.table_of(verdicts)
    assert [row[0] for row in table.rows] == [item for item, *_ in checklist.ITEMS]
    assert "not passed: R1" in table.notes[0]
