"""The diagram of an overall comparison has all that it compares in it."""

from sample_records import made

from benchmarks.boards import overall
from benchmarks.boards.frame import rows_of


def test_every_method_stands_in_the_diagram_with_its_mean_rank():
    def record(method, seed, position, number):
        metrics = {"dense": {"accuracy": 0.98, "parameters": 1000, "macs": 900}}
        metrics["tuned"] = {"accuracy": 0.9 - 0.05 * position + seed / 1000, "parameters": 250, "macs": 200}
        settings = {"method": {"name": method}, "dataset": {"name": f"data{number}"}}
        return made(seed, method=method, metrics=metrics, settings=settings, dataset=f"data{number}")

    facts = [("spectral", 0), ("dpp", 1), ("random", 2)]
    records = [record(name, seed, at, number) for number in range(3) for seed in range(2) for name, at in facts]
    [found] = overall.comparisons(rows_of(records))
    drawing = " ".join(overall.diagram(found).decode().split())
    for method, rank in (("spectral", 1), ("dpp", 2), ("random", 3)):
        assert f"{method} ({rank}.00)" in drawing or f"({rank}.00) {method}" in drawing
