"""What boards promise beside their figures: margins, notes, which columns go first, and that their cache is read."""

import io
import re

import pytest
from rich.console import Console
from sample_records import made

from benchmarks.boards import board, overall
from benchmarks.boards.frame import load, rows_of
from benchmarks.boards.layout import table_of
from benchmarks.boards.rendering import render
from benchmarks.records.store import Store


def cell(method, seed, accuracy=0.9, budget="keep", value=0.2, dataset="digits", **fields):
    metrics = {
        "dense": {"accuracy": 0.98, "loss": 0.1, "parameters": 1000, "macs": 900},
        "tuned": {"accuracy": accuracy, "top5": 0.99, "loss": 1 - accuracy, "parameters": 250, "macs": 200},
    }
    settings = {"method": {"name": method}, "budget": {budget: value}, "dataset": {"name": dataset}}
    fields["dataset"] = dataset
    requested = {"requested": {budget: value}, "achieved": {"compression": 4.0, "speedup": 4.0}}
    return made(seed, method=method, metrics=metrics, settings=settings, budget=requested, **fields)


def networks(count):
    """Records of three methods on so many data sets."""
    for number in range(count):
        for seed in range(3):
            for position, method in enumerate("abc"):
                yield cell(method, seed, 0.9 - 0.1 * position + seed / 1000, dataset=f"data{number}")


def boards(records, **question):
    return board.boards(rows_of(records), board.Question(**question))


@pytest.mark.parametrize(
    "metric,margin", [("tuned_accuracy", 0.01), ("tuned_top5", 0.01), ("tuned_loss", None), ("macs", None)]
)
def test_a_margin_is_of_accuracies_and_of_nothing_else(metric, margin):
    [found] = boards([cell(method, seed) for method in "ab" for seed in range(3)], metric=metric, margin=0.01)
    assert found.margin == margin


def test_methods_that_hardly_differ_are_equal_within_the_margin_and_undecided_without_one():
    def word(**question):
        records = [cell("a", seed, 0.9 + seed / 1e5) for seed in range(4)]
        records += [cell("b", seed, 0.9 + seed / 1e5 + 1e-6 * (-1) ** seed) for seed in range(4)]
        [found] = boards(records, **question)
        return found.verdicts["node"].of("a", "b").word

    assert word() == "equal"
    assert word(margin=None) == "undecided"


def test_the_baseline_is_compared_with_every_method_and_never_with_the_dense_network():
    records = [cell(method, seed, 0.9 + seed / 100) for method in "ab" for seed in range(3)]
    [found] = boards(records, baseline="a")
    compared = {row.name: row.versus is not None for row in found.rows}
    assert compared == {"dense": False, "a": False, "b": True}
    [unknown] = boards(records, baseline="dense")
    assert unknown.baseline is None


def test_different_numbers_of_seeds_are_noted_where_methods_have_them():
    def noted(*records):
        return any("rows have different n" in note for note in table_of(boards(records)[0]).notes)

    same = [cell(method, seed) for method in "ab" for seed in range(2)]
    assert not noted(*same)
    assert noted(*same, cell("a", 2))
    other = cell("b", 2, status="failed")  # the dense network has more seeds than either method: not theirs to say
    assert not noted(*same, other)


def test_the_size_that_a_budget_is_about_is_the_last_that_a_narrow_terminal_drops():
    def last(budget):
        [found] = boards([cell("a", 0, budget=budget, value=4.0), cell("b", 0, budget=budget, value=4.0, unit="edge")])
        return table_of(found).droppable[-2:]

    assert last("compression") == ["effective MACs", "MACs"]
    assert last("speedup") == ["MACs", "effective MACs"]


@pytest.mark.parametrize("formats", [("terminal",), ("terminal", "md"), ("md",)])
@pytest.mark.parametrize("part", [False, True])
def test_rankings_over_networks_are_in_files_always_and_on_the_terminal_with_all_boards(tmp_path, formats, part):
    store, console = Store(tmp_path / "runs", tmp_path / "cells"), Console(record=True, width=120, file=io.StringIO())
    records = list(networks(4))
    for record in records:
        store.write_result(record)
    only = frozenset({records[0].key}) if part else None
    assert render(store, tmp_path, console, formats=formats, only=only) == 4
    words = "over 4 networks"
    assert (words in console.export_text()) == ("terminal" in formats and not part)
    written = tmp_path / "leaderboard.md"
    assert written.is_file() == ("md" in formats)
    assert not written.is_file() or words in written.read_text()


def test_rows_of_records_that_have_not_changed_come_from_the_cache(tmp_path, monkeypatch):
    store = Store(tmp_path / "results" / "runs", tmp_path / "results" / "cells")
    for seed in range(3):
        store.write_result(cell("a", seed))
    first, _ = load(store)

    def refuse(self, path):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(Store, "open", refuse)
    second, problems = load(store)
    assert second == first and len(first) == 3 and not problems


def test_a_diagram_says_what_it_shows_and_is_as_high_as_its_methods_are_many():
    def drawn(methods):
        records = [
            cell(method, seed, 0.9 - 0.05 * position + seed / 1000, dataset=f"data{number}")
            for number in range(3)
            for seed in range(2)
            for position, method in enumerate(methods)
        ]
        [found] = overall.comparisons(rows_of(records))
        return " ".join(overall.diagram(found).decode().split())

    sizes = []
    for methods in ("abc", "abcdefgh"):
        drawing = drawn(methods)
        assert "node: mean rank over 3 networks (1 is best); bars: undecided" in drawing
        width, height = re.search(r'<svg[^>]* width="([0-9.]+)pt" height="([0-9.]+)pt"', drawing).groups()
        assert float(width) == 9 * 72
        sizes.append(float(height))
    assert sizes[1] - sizes[0] == pytest.approx(5 * 0.22 * 72)
