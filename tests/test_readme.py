"""The README and its pages tell the truth: links lead somewhere, commands exist, rows are those of the boards."""

import csv
import importlib.util
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BADGE = "../../actions/workflows/"  # where a forge keeps the workflows of the repository that shows the page
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        found = target.startswith(("http", BADGE)) or (page.parent / target).exists()
        assert found, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_named_experiments_exist(page):
    text = page.read_text()
    for module in set(re.findall(r"python -m (benchmarks[\w.]*)", text)) - {"benchmarks.X"}:
        assert importlib.util.find_spec(module), module
    for name in set(re.findall(r"\+experiment=(\w+)", text)) - {"NAME"}:
        assert (ROOT / f"conf/experiment/{name}.yaml").is_file(), name
    for target in set(re.findall(r"^make (\w+)", text, re.MULTILINE)):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text() or f" {target} " in (ROOT / "Makefile").read_text()


def reviewed(ending):
    """The reviewed board, or None; without one no page must show any."""
    path = ROOT / f"results/boards/reviewed/leaderboard.{ending}"
    if not path.is_file():
        assert not any("| rank | method |" in page.read_text() for page in PAGES)
        return None
    return path.read_text()


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


def tables(page, first):
    return [part.splitlines() for part in (ROOT / page).read_text().split("\n\n") if part.startswith(f"| {first} |")]


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md"])
def test_the_board_of_a_page_is_a_part_of_the_reviewed_one(page):
    if (board := reviewed("md")) is None:
        return
    whole = board[board.index("## digits · mlp · compression 16:") :].split("\n## ")[0]
    lines = [cells(line) for line in whole.splitlines() if line.startswith("| ")]
    place = {name: number for number, name in enumerate(lines[0])}
    [table] = tables(page, "rank")
    shown = [cells(line) for line in table]
    assert len(shown) > 5
    assert shown[2:] == [[row[place[name]] for name in shown[0]] for row in lines[2 : len(shown)]]


def test_ranks_over_networks_are_those_of_the_reviewed_board():
    if (board := reviewed("md")) is None:
        return
    shown = tables("docs/findings.md", "place")
    assert len(shown) == 2
    for rows, ranking in zip(shown, board.split("\n## ")[1:3], strict=True):
        assert "methods over" in ranking and len(rows) > 5 and "\n".join(rows) in ranking


def rows_of(model, budget, value):
    """Lines of the reviewed boards by method and repair."""
    lines = csv.DictReader(io.StringIO(reviewed("csv")))
    return [
        line
        for line in lines
        if (line["model"], line["budget"], float(line["value"] or 0)) == (model, budget, value)
        and line["status"] == "done"
    ]


def points(line, stage):
    return 100 * float(line[f"{stage}_accuracy_mean"])


def refitting_gains(method):
    """Points that refitting adds on LeNet-5 at speed-up 8: before and after fine-tuning, over common seeds."""
    found = {False: {}, True: {}}
    for path in sorted((ROOT / "results/cells/mnist/lenet5").glob("*.json")):
        record = json.loads(path.read_text())
        config = record["config"]
        asked = (record["method"], config["budget"]["speedup"], config["allocation"].get("donor"))
        if asked == (method, 8, None) and config["selection"].get("beta") in (None, "paper"):
            metrics = record["metrics"]
            pair = [100 * metrics[stage]["accuracy"] for stage in ("pruned", "tuned")]
            found[config["compensation"]["refit"]][record["seed"]] = pair
    seeds = sorted(set(found[False]) & set(found[True]))
    assert len(seeds) >= 3, (method, seeds)
    stages = ([found[True][seed][stage] - found[False][seed][stage] for seed in seeds] for stage in (0, 1))
    return [sum(gains) / len(seeds) for gains in stages]


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md"])
def test_the_numbers_of_the_findings_are_those_of_the_boards(page):
    if reviewed("csv") is None:
        return
    text = " ".join((ROOT / page).read_text().split())
    digits = rows_of("mlp", "compression", 16)
    own = [line for line in digits if line["unit"] == "node" and "(layers of" not in line["method"]]
    for repair, words in (
        ("refit, ridge 0.001", "keep {:.1f} to {:.1f} %"),
        ("none", "without .*repair {:.0f} to {:.0f} %"),
    ):
        kept = [points(line, "pruned") for line in own if line["repair"] == repair]
        assert len(kept) > 3 and re.search(words.format(min(kept), max(kept)), text), (repair, min(kept), max(kept))

    gains, losses = [], []
    for method in ("spectral", "thinet", "dpp"):
        gained, gained_after = refitting_gains(method)
        gains.append(gained)
        losses.append(-gained_after)
    assert f"by {min(gains):.0f} to {max(gains):.0f} points" in text, gains
    assert "one to two points below" in text and min(losses) > 0.5 and max(losses) < 2.5, losses

    verdicts = Counter(line["against_own_method"] for line in digits if line["method"].startswith("scratch"))
    words = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten"}
    assert verdicts["worse"] == 0 and verdicts["better"] and set(verdicts) <= {"better", "undecided"}, verdicts
    better, every = (words.get(number, str(number)) for number in (verdicts["better"], verdicts.total()))
    assert re.search(f"better than {better} of {every}|of {every} methods it is better than {better} ", text), verdicts


def test_the_pairs_that_the_findings_count_are_decided_on_the_boards():
    if reviewed("csv") is None:
        return
    text = " ".join((ROOT / "docs/findings.md").read_text().split())
    counts = []
    for value in (16, 32):
        lines = [line for line in rows_of("mlp", "compression", value) if not line["against_own_method"]]
        for unit in ("node", "edge"):
            own = [line for line in lines if line["unit"] == unit and line["undecided"]]
            decided = sum(int(line["better_than"]) for line in own)
            assert decided, "a board of digits tells no method from another"
            counts.append(f"{decided} of {len(own) * (len(own) - 1) // 2}")
    nodes, edges, fewer_nodes, fewer_edges = counts
    assert f"{nodes} pairs of node methods and {edges} pairs of edge methods" in text, counts
    assert f"it is {fewer_nodes} and {fewer_edges}." in text, counts


def test_the_readme_is_short_and_counts_the_methods():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    count = len(list((ROOT / "conf/method").glob("*.yaml")))
    assert f"It has {count} methods" in text and f"[{count} methods](docs/methods.md)" in text
    assert text.index("# Secateurs") < text.index("make demo") < text.index("```python") < text.index("![Test accuracy")
    assert "Buffoni et al. 2022" in text and "CITATION.cff" in text and "CHANGELOG.md" in text


def test_every_reconstruction_is_named():
    section = (ROOT / "docs/fairness.md").read_text().partition("## Reconstructions")[2]
    for path in sorted((ROOT / "conf/method").glob("*.yaml")):
        assert (f"`{path.stem}`" in section) == ("# Reconstruction:" in path.read_text()), path.stem
