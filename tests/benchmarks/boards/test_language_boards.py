"""Boards of language models: the smaller loss comes first, beside it perplexity and bits per character."""

import math

import pytest
from sample_records import made

from benchmarks.boards.board import Question, boards, smaller_is_better
from benchmarks.boards.frame import rows_of
from benchmarks.boards.layout import table_of


def record(method, seed, loss):
    settings = {"dataset": {"name": "plays", "task": "language_model"}, "model": {"name": "char_gpt"}, "seed": seed}
    settings["method"] = {"name": method}
    metrics = {"dense": {"loss": 1.5}, "pruned": {"loss": loss + 0.5}, "tuned": {"loss": loss}}
    own = {"dataset": "plays", "model": "char_gpt", "method": method, "metrics": metrics, "version": 3}
    return made(seed=seed, settings=settings, characters_per_token=2.0, **own)


@pytest.fixture
def board():
    losses = {"good": 1.6, "bad": 2.4}
    records = [record(name, seed, loss + 0.01 * seed) for name, loss in losses.items() for seed in range(4)]
    return boards(rows_of(records), Question())[0]


def test_the_smaller_loss_comes_first(board):
    assert board.metric == "tuned_loss"
    names = [row.name for row in board.rows if not row.control]
    assert names == ["good", "bad"]
    assert smaller_is_better("tuned_perplexity") and smaller_is_better("tuned_bits_per_character")


def test_perplexity_and_bits_are_functions_of_the_loss(board):
    good = next(row for row in board.rows if row.name == "good")
    losses = [1.6 + 0.01 * seed for seed in range(4)]
    assert good.values["tuned_perplexity"].mean == pytest.approx(sum(map(math.exp, losses)) / 4, rel=1e-6)
    assert good.values["tuned_bits_per_character"].mean == pytest.approx(sum(losses) / 4 / math.log(2) / 2, rel=1e-6)
    table = table_of(board)
    assert {"perplexity", "bits per character"} <= set(table.columns)
    assert "chosen by validation loss" in table.title
