"""The sentences of the first screen, against what is counted from the records by hand."""

import re

import pytest
from sample_records import made

from benchmarks.boards.board import boards
from benchmarks.boards.frame import rows_of
from benchmarks.boards.naming import with_names
from benchmarks.boards.stats import spread
from benchmarks.report import answers
from benchmarks.report.board_view import anchors_by_row, common_notes, view


def cell(method, seed, accuracy, unit="node", latency=None, value=0.2, **fields):
    """One cell of digits; ``fields`` replace or add."""
    macs = 900 if unit == "edge" else int(900 * value)
    sizes = {"parameters": 1000, "macs": macs}
    return made(
        seed,
        method=method,
        unit=unit,
        settings={"method": {"name": method}, "budget": {"keep": value}},
        budget={"requested": {"keep": value}, "achieved": {"keep": value, "compression": 5.0, "speedup": 900 / macs}},
        metrics={
            "dense": {"accuracy": 0.98, "loss": 0.1, "parameters": 1000, "macs": 900},
            "pruned": {"accuracy": accuracy - 0.1, **sizes},
            "tuned": {"accuracy": accuracy, **sizes},
        },
        latency=[{"runtime": "eager", "batch": 1, "ratio": latency}] if latency else None,
        fingerprint={"cpu": "Some CPU", "torch": "2.0"},
        **fields,
    )


def made_of(records):
    """Cells and boards with their anchors."""
    cells = with_names(rows_of(records))
    found = boards(cells)
    views = [view(board, f"board-{number}") for number, board in enumerate(found)]
    both = zip(found, views, strict=True)
    return cells, found, [(made.anchor, board, anchors_by_row(board, made)) for board, made in both], views


def grid(steps, seeds=8, prefix="m", **fields):
    """Methods ``m0``, ``m1``, ... of which each is a step worse than the one before; all seeds differ alike."""
    for number, step in enumerate(steps):
        for seed in range(seeds):
            noise = 0.0005 * ((seed * (number + 3)) % 5)
            yield cell(f"{prefix}{number}", seed, 0.95 - step + 0.001 * seed + noise, **fields)


def test_the_first_three_are_those_with_the_best_means_and_say_whether_they_are_told_apart():
    records = list(grid([0.0, 0.1, 0.2, 0.3, 0.4]))
    _, [board], found, _ = made_of(records)
    [pick] = answers.picks(found)
    assert [place.name for place in pick.top] == ["m0", "m1", "m2"] and pick.unit == "node"
    scores = [100 * r.metrics.tuned.accuracy for r in records if r.method == "m0"]
    summary = spread(scores)
    low, high = summary.mean - summary.half_width, summary.mean + summary.half_width
    assert pick.top[0].figure == f"{summary.mean:.2f} % ({low:.2f} to {high:.2f})" and pick.top[0].n == 8
    assert "it is better than each of the 4 others" in pick.sentence and "(dense: 98.00 %)" in pick.sentence
    assert pick.top[0].against == "first by its mean"
    assert all(place.against.startswith("worse than the first, p ") for place in pick.top[1:])
    for place in pick.top:
        assert place.row in anchors_by_row(board, view(board, "board-0")).values()
        assert 0 <= place.marks[0] <= place.marks[1] <= place.marks[2] <= 100


def test_what_is_equal_is_said_to_be_equal_and_what_is_open_is_open():
    _, _, found, _ = made_of(list(grid([0.0, 0.0001, 0.3, 0.31, 0.32])))
    [pick] = answers.picks(found)
    assert "of the 4 others it is better than 3, equal to 1" in pick.sentence
    assert pick.top[1].against == "equal to the first within 0.5 points"
    _, _, found, _ = made_of(list(grid([0.0, 0.02, 0.04], seeds=1)))
    [pick] = answers.picks(found)
    assert "cannot tell it from any of the 2 others" in pick.sentence
    assert pick.top[1].against == "one seed in common: no test" and "(" not in pick.top[0].figure


def test_seeds_that_agree_by_chance_have_no_interval_of_no_width():
    records = [cell(method, seed, accuracy) for method, accuracy in (("a", 0.9), ("b", 0.8)) for seed in (0, 1)]
    [pick] = answers.picks(made_of(records)[2])
    assert pick.top[0].figure == "90.00 % (all 2 seeds agree)"


def test_nodes_and_edges_are_picked_apart():
    records = [*grid([0.0, 0.1]), *grid([0.05, 0.15], unit="edge", prefix="e")]
    found = {pick.unit: pick for pick in answers.picks(made_of(records)[2])}
    assert set(found) == {"node", "edge"} and "unstructured" in found["edge"].sentence


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("compression", 4.0, "4 times fewer parameters (compression 4)"),
        ("speedup", 2.5, "2.5 times fewer MACs (speedup 2.5)"),
        ("keep", 0.2, "20% of the units kept (keep 0.2)"),
        ("latency", 2.0, "2 times less latency (latency 2)"),
        (None, None, "no budget"),
    ],
)
def test_budgets_are_said_in_words(kind, value, words):
    assert answers.budget_words(kind, value) == words


def test_what_is_faster_is_measured_and_the_machine_is_named():
    records = [cell("a", seed, 0.9, latency=3.0) for seed in range(2)] + [cell("b", 0, 0.9, latency=2.0)]
    records += [cell("e", seed, 0.9, unit="edge", latency=0.9) for seed in range(2)]
    cells, found, _, _ = made_of(records)
    said = answers.faster(found, cells)
    assert "Some CPU (torch 2.0), eager, batch 1" in said.sentence
    assert "removing nodes made networks 2.50 times as fast, at 5.00 times fewer MACs (median of 2" in said.sentence
    assert "masking weights made networks 0.90 times as fast, at 1.00 times fewer MACs (one setting)" in said.sentence
    assert [line[2:] for line in said.lines] == [
        ("structured", "5.00×", "2.50× (2.00 to 3.00)"),
        ("unstructured", "1.00×", "0.90× (0.90 to 0.90)"),
    ]


def test_without_a_measured_latency_nobody_is_said_to_be_faster():
    cells, found, _, _ = made_of(list(grid([0.0, 0.1], seeds=2)))
    said = answers.faster(found, cells)
    assert said.sentence.startswith("Nobody knows yet: these 4 records hold no") and said.lines == []


def test_trust_counts_what_is_there():
    records = [cell(m, seed, 0.9 - 0.1 * n) for n, m in enumerate(("random", "magnitude", "a")) for seed in range(2)]
    records.append(made(9, "failed", method="a", settings={"method": {"name": "a"}, "x": 1}))
    cells, found, _, _ = made_of(records)
    said = answers.trust(found, cells)
    points = {words: good for good, words in said.points}
    assert points["0 of 3 rows have 3 or more seeds"] is False
    assert points["random and magnitude pruning, the controls, were run in 1 of 1 comparisons"] is True
    assert points["0 of 7 records are reviewed; the others are this machine's own"] is False
    assert points["1 of 7 runs failed"] is False
    good = sum(points.values())
    assert f"{good} of {len(said.points)} points speak for it." in said.sentence
    assert "fewer than 3 seeds are preliminary" in said.sentence
    judged = next(words for words in points if "checklist" in words)
    met, every = map(int, re.match(r"(\d+) of (\d+)", judged).groups())
    assert every - met == len(said.unmet) > 0


def test_what_most_boards_note_is_said_once():
    records = [*grid([0.0, 0.1], seeds=2), *grid([0.0, 0.1], seeds=2, value=0.5)]
    views = made_of(records)[3]
    before = [set(each.notes) for each in views]
    shared = common_notes(views)
    assert shared and set(shared) == before[0] & before[1]
    assert all(set(each.notes) | set(shared) == own for each, own in zip(views, before, strict=True))
    alone = made_of(list(grid([0.0, 0.1], seeds=2)))[3]
    assert common_notes(alone) == [] and alone[0].notes


def test_rows_know_what_they_are_and_have_anchors_of_their_own():
    records = [*grid([0.0, 0.1], seeds=2), *[cell("random", seed, 0.5) for seed in range(2)]]
    records.append(made(7, "failed", method="m1", settings={"method": {"name": "m1"}}))
    [made_view] = made_of(records)[3]
    kinds = {line.method: line.kind for line in made_view.lines if line.kind != "unranked"}
    assert kinds == {"dense": "dense", "m0": "method", "m1": "method", "random": "control"}
    assert [line.kind for line in made_view.lines].count("unranked") == 1
    assert len(set(made_view.anchors)) == len(made_view.anchors)
    assert made_view.anchors[1] == "board-0--m0"
    best = {column.name: column.best for column in made_view.columns}
    assert (best["after fine-tuning"], best["rank"], best["MACs"]) == ("high", "low", "low")
