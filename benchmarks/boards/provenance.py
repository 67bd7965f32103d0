"""What was run, for the note under a board's title: images, epochs, data, dense accuracy, seeds, command."""

import csv
from collections import Counter
from collections.abc import Sequence
from functools import cache

from benchmarks.boards.board import Board
from benchmarks.boards.board_command import command
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.frame import run_of
from benchmarks.settings.tasks import TEXT_TASKS
from benchmarks.storage.paths import REPOSITORY

IMAGES = {  # copies of a data set that are known not to be the original, by the checksum of what was read
    "bc3589f9236446fac95eee7249e815f3831078e034b99d1def36a0244fb629a3": "CIFAR-10 (JPEG copies)",
}
# of results/published, which a package has under this name; settings are "DATASET MODEL, dense"
PUBLISHED = REPOSITORY / "benchmarks" / "reproductions" / "published_numbers" / "dense_networks.csv"


def provenance(board: Board) -> list[str]:
    """Describe what was run; empty for boards of several networks.

    The note describes the training that most cells of a board share; names of rows say what differs from it.
    """
    if len({(cell["dataset"], cell["model"]) for cell in board.cells}) != 1:
        return []
    count = Counter(cell["context"] for cell in board.cells)
    usual = max(count, key=lambda context: (count[context], context))
    run = run_of(min((c for c in board.cells if c["context"] == usual), key=lambda cell: str(cell["key"])))
    share, limit = run["validation"], run["limit"]
    what = "sequences" if run["task"] in TEXT_TASKS else "images"
    parts = [f"{limit:,} training {what}" if isinstance(limit, int) else f"all training {what}"]
    if isinstance(share, float):
        parts[0] += f", {share:.0%} of them for validation"
    for name, of in (("train", ""), ("finetune", " of fine-tuning")):
        if (epochs := run["epochs"][name]) is not None:
            each = f" ({run['samples'][name]:,} {what} each)" if run["samples"][name] and epochs else ""
            parts.append(f"{epochs} {'epoch' if epochs == 1 else 'epochs'}{of}{each}")
    if run["distil"]:
        said = ", ".join(f"{name} {value:g}" for name, value in run["distil"].items() if value is not None)
        parts.append(f"fine-tuned with the dense network as the teacher ({said})")
    marks = sorted({str(cell["data"]) for cell in board.cells if cell.get("data")})
    origin = [f"{IMAGES.get(mark, str(run['name']))} (checksum {mark[:8]})" for mark in marks] or ["unknown"]
    parts += [f"data {' or '.join(origin)}", *_dense(board.cells)]
    seeds = sorted({cell["seed"] for cell in board.cells})
    parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}")
    typed = command(board.cells, run["words"], run["asked"])
    return ["run: " + "; ".join(parts), *([f"made by: {typed}"] if typed else [])]


def _dense(cells: Sequence[Cell]) -> list[str]:
    """The dense networks' accuracy compared with the published one, if there is one."""
    found = {str(cell["dense_key"]): cell["dense_accuracy"] for cell in cells if cell.get("dense_accuracy") is not None}
    if not found:
        return []
    mean = 100 * sum(found.values()) / len(found)
    first = cells[0]
    name = f"{first['dataset']} {str(first['model']).partition(' [')[0]}, dense"
    number = published_dense().get(name)
    if number is None:
        return [f"dense {mean:.2f} %, published: none known"]
    source = f"{number['paper']}, {number['where']}; {number['certainty']}"
    return [f"dense {mean:.2f} %, published {number['value']} % ({source})"]


@cache
def published_dense() -> dict[str, dict[str, str]]:
    """Published accuracies of dense networks, lines of a file of results/published, by data set and model."""
    if not PUBLISHED.is_file():
        return {}
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return {line["setting"]: line for line in csv.DictReader(file)}
