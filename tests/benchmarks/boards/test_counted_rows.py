"""What the checklist and the comparison over networks count: seeds of one row, finished cells, networks of a method."""

from sample_records import made

from benchmarks.boards import checklist, overall
from benchmarks.boards.frame import rows_of

HARDWARE = {"torch": "2.13", "cpu": "one"}


def cell(method, seed, accuracy=0.9, value=0.5, network="digits", **fields):
    metrics = {"dense": {"accuracy": 0.98, "parameters": 1000, "macs": 900}}
    metrics["tuned"] = {"accuracy": accuracy + seed / 1000, "parameters": 250, "macs": 200}
    settings = {"method": {"name": method}, "budget": {"keep": value}, "dataset": {"name": network}}
    budget = {"requested": {"keep": value}, "achieved": {"compression": 2.0, "speedup": 2.0}}
    fields = {"fingerprint": HARDWARE, "metrics": metrics} | fields
    return made(seed, method=method, settings=settings, budget=budget, dataset=network, **fields)


def states(records):
    return {verdict.item: verdict.state for verdict in checklist.examine(rows_of(records))}


def test_seeds_of_other_budgets_do_not_count_for_a_row():
    enough = [cell("spectral", seed) for seed in range(3)]
    few = [cell("spectral", seed, value=0.25) for seed in (0, 3)]
    assert states(enough)["R6"] == "passed"
    assert states([*enough, *few])["R6"] == "failed"


def test_hardware_is_asked_of_finished_cells_alone():
    finished = [cell("spectral", seed) for seed in range(3)]
    assert states([*finished, cell("spectral", 3, status="failed", fingerprint={}, metrics={})])["B8"] == "passed"
    assert states([*finished, cell("spectral", 3, fingerprint={})])["B8"] == "failed"


def test_two_networks_are_enough_to_be_compared_over_several_and_one_is_not():
    places = {"spectral": 2, "dpp": 2, "random": 2, "lq": 1}
    rows = [
        cell(method, seed, 0.9 - 0.1 * rank, network=f"data{number}")
        for rank, (method, count) in enumerate(places.items())
        for number in range(count)
        for seed in range(2)
    ]
    [found] = overall.comparisons(rows_of(rows))
    assert list(found.single) == ["lq"] and set(found.scores) == {"spectral", "dpp", "random"}
