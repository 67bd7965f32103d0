"""The words that ask for a board's cells say what differs from the files of conf/, and nothing else."""

import pytest

from benchmarks.boards.board_command import surroundings
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer

COMPOSER = Composer(CONF)


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=digits", "model=mlp"],
        ["dataset=digits", "model=mlp", "trainer.train.momentum=0.5"],
        ["dataset=digits", "model=mlp", "trainer.finetune.momentum=0.5"],
        ["dataset=digits", "model=mlp", "trainer.train.batch_size=96", "trainer.finetune.batch_size=32"],
        ["dataset=mnist", "model=lenet5", "trainer=tiny", "calibration.samples=77"],
    ],
)
def test_what_follows_from_another_value_is_not_typed_again(words):
    """Fine-tuning takes its momentum from the dense training: changing the one changes the other, by one word."""
    assert surroundings(COMPOSER.cell(words)) == words
