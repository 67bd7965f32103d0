"""Losses per token become losses per character by the test split's own ratio."""

import pytest

from benchmarks.data import text
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer


class Pairs:
    """One token for each two characters of a text of b, one for each character of others."""

    size = 2

    def encode(self, texts, longest):
        return [[ord(sign) % 2 for sign in each.replace("bb", "b")] for each in texts]


def test_characters_per_token_are_those_of_the_test_split(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "tokenizer_of", lambda *args, **named: Pairs())
    for part, sign in (("train", "a"), ("validation", "c"), ("test", "b")):
        (tmp_path / f"{part}.txt").write_text(sign * 120)
    files = [f"dataset.{part}_file={part}.txt" for part in ("train", "validation", "test")]
    words = ["dataset=text", "dataset.name=signs", f"dataset.source={tmp_path}", "dataset.shape=[8]", *files]
    raw = text.language_model(Composer(CONF).cell(words)["dataset"], tmp_path)
    assert raw.text.characters_per_token == pytest.approx(2.0)
