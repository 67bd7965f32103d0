"""Data sets of text: what the readers make of files, archives and Parquet, and how batches of sequences look."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data.sequences import TokenSplit
from benchmarks.data.splits import load
from benchmarks.data.text import excerpt
from benchmarks.data.tokens import Characters, Tokens
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput

VERSE = "".join(f"verse {number}: the quick brown fox\n" for number in range(60))


def section(*words):
    return Composer(CONF).cell(list(words))["dataset"]


def running(folder, *words, text=VERSE):
    folder.mkdir(exist_ok=True)
    (folder / "input.txt").write_text(text)
    own = ["dataset=text", "dataset.name=verses", f"dataset.source={folder}", "dataset.train_file=input.txt"]
    return section(*own, "dataset.shape=[16]", *words)


def reviews(folder, *words):
    folder.mkdir(exist_ok=True)
    good = "\n".join(f"very good, number {'x' * (row % 7)}" for row in range(40))
    bad = "\n".join(f"bad \x85{'y' * (row % 11)}" for row in range(40))
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("inside/good.txt", (good + "\n").encode("latin-1"))
        archive.writestr("inside/bad.txt", bad.encode("latin-1"))
    own = ["dataset=sentences", "dataset.name=reviews", f"dataset.source={folder}", "dataset.archive=all.zip"]
    files = ["dataset.class_files=[bad.txt,good.txt]", "dataset.encoding=latin-1", "dataset.test_split=null"]
    return section(*own, *files, "dataset.shape=[24]", *words)


def test_windows_predict_the_next_token_and_stay_in_their_split(tmp_path):
    data = load(running(tmp_path / "t"), 0, tmp_path)
    tokenizer = data.text.tokenizer
    place = 0
    for split in (data.validation, data.train, data.test):
        text = [tokenizer.decode(row.tolist()) for row in split.inputs]
        joined = "".join(text)
        assert joined in VERSE and VERSE.index(joined) >= place
        place = VERSE.index(joined) + len(joined)
        for row, target in zip(split.inputs, split.targets, strict=True):
            assert torch.equal(row[1:].long(), target[:-1])
    assert VERSE.startswith(tokenizer.decode(data.validation.inputs[0].tolist()))
    held_out = round(0.9 * len(VERSE))
    assert VERSE.index(tokenizer.decode(data.test.inputs[0].tolist())) == held_out
    assert data.classes == tokenizer.size == len(set(VERSE)) and data.tokens == Tokens("language_model", data.classes)
    other = load(running(tmp_path / "t"), 7, tmp_path)
    assert torch.equal(other.validation.inputs, data.validation.inputs)  # the same for every seed


def test_a_stride_makes_windows_overlap_in_training_alone(tmp_path):
    plain, dense = (load(running(tmp_path / "t", *words), 0, tmp_path) for words in ([], ["dataset.stride=4"]))
    assert len(dense.train) > 3 * len(plain.train)
    assert torch.equal(dense.train.inputs[4], plain.train.inputs[1])
    assert len(dense.test) == len(plain.test) and len(dense.validation) == len(plain.validation)


def test_texts_of_their_own_for_validation_and_test(tmp_path):
    folder = tmp_path / "t"
    cfg = running(folder, "dataset.validation_file=v.txt", "dataset.test_file=t.txt")
    (folder / "v.txt").write_text("fox " * 20)
    (folder / "t.txt").write_text("the quick\n" * 20)
    data = load(cfg, 0, tmp_path)
    assert data.text.tokenizer.decode(data.validation.inputs[0].tolist()) == "fox " * 4
    assert len(data.test) == (200 - 1) // 16


def test_running_text_from_parquet(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for split, rows in (("train", ["one two three " * 20] * 10), ("test", ["two one " * 10] * 5)):
        pq.write_table(pa.table({"text": rows}), folder / f"{split}-0.parquet")
    data = load(section("dataset=text", "dataset.name=p", f"dataset.source={folder}", "dataset.shape=[8]"), 0, tmp_path)
    assert data.text.tokenizer.decode(data.test.inputs[0].tolist()) == "two one "
    assert len(data.test) == (5 * 81 - 1) // 8


def test_sentences_of_two_files_in_an_archive(tmp_path):
    data = load(reviews(tmp_path / "r"), 0, tmp_path)
    assert (data.classes, len(data.test), len(data.train) + len(data.validation)) == (2, 16, 64)
    tokenizer = data.text.tokenizer
    for split in (data.train, data.validation, data.test):
        for row, target in zip(split.inputs, split.targets, strict=True):
            text = tokenizer.decode(row.tolist())
            assert text.startswith("very good" if int(target) else "bad")
        lengths = (split.inputs != 0).sum(1)
        assert torch.equal(lengths, lengths.sort().values)
    again = load(reviews(tmp_path / "r"), 3, tmp_path)
    assert torch.equal(again.test.inputs, data.test.inputs)
    assert not torch.equal(again.validation.inputs, data.validation.inputs)


def test_sentences_from_parquet(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    rows = {"text": ["a b", "abc", "c"] * 10, "label": [0, 2, 1] * 10}
    for split in ("train", "test"):
        pq.write_table(pa.table(rows), folder / f"{split}-0.parquet")
    words = ["dataset=sentences", "dataset.name=p", f"dataset.source={folder}", "dataset.shape=[8]"]
    data = load(section(*words), 0, tmp_path)
    assert data.classes == 3 and len(data.test) == 30
    assert {data.text.tokenizer.decode(row.tolist()) for row in data.test.inputs} == {"a b", "abc", "c"}


BAD = [
    (lambda f: running(f, "dataset.train_file=none.txt"), "none.txt cannot be read"),
    (lambda f: running(f, "dataset.encoding=ascii", text="é" * 99), "set dataset.encoding"),
    (lambda f: running(f, "dataset.shape=[5000]"), "too few for one window"),
    (lambda f: running(f, "dataset.classes=9"), "type dataset.classes="),
    (lambda f: reviews(f, "dataset.archive=gone.zip"), "gone.zip cannot be read"),
    (lambda f: reviews(f, "dataset.class_files=[bad.txt,worse.txt]"), "0 files named worse.txt"),
    (lambda f: reviews(f, "dataset.name=sentences"), "give yours a name"),
    (lambda f: running(f, "dataset.tokenizer=./no_such_folder"), "cannot be had"),
]


@pytest.mark.parametrize("make,message", BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_read_is_said_in_two_lines(make, message, tmp_path):
    with pytest.raises(BadInput) as caught:
        load(make(tmp_path / "d"), 0, tmp_path)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-16"), max_size=12), min_size=1, max_size=5), st.booleans())
def test_characters_come_back(texts, padded):
    tokenizer = Characters.of(texts, padded)
    for text, row in zip(texts, tokenizer.encode(texts, None), strict=True):
        assert tokenizer.decode(row.tolist()) == text
        assert all(2 * padded <= each < tokenizer.size for each in row)


def test_characters_that_are_not_in_the_alphabet():
    tokenizer = Characters.of(["abc"], padded=True)
    assert tokenizer.encode(["abz"], None)[0].tolist() == [2, 3, 1] and tokenizer.decode([2, 1, 0]) == "a\ufffd"
    with pytest.raises(BadInput, match="'z', which is not in the alphabet"):
        Characters.of(["abc"], padded=False).encode(["abz"], None)
    assert excerpt(tokenizer, torch.tensor([2, 3, 4] * 40)) == ("abc" * 40)[:80]


# Batches


def padded(count=230, longest=20):
    lengths = torch.from_numpy(np.random.default_rng(1).integers(1, longest + 1, count))
    inputs = torch.arange(1, count + 1).int()[:, None].repeat(1, longest)
    inputs[torch.arange(longest)[None] >= lengths[:, None]] = 0
    return TokenSplit(inputs, torch.arange(count), tokens=Tokens("text_classification", count + 1, 0)), lengths


def test_batches_of_padded_sequences_have_about_one_length(tmp_path):
    split, lengths = padded()
    batches = list(split.batches(10, torch.Generator().manual_seed(0)))
    assert torch.cat([y for _, y in batches]).sort().values.tolist() == list(range(230))
    wasted = 0
    for x, y in batches:
        assert x.dtype == torch.int64 and x.shape[1] == int(lengths[y].max())
        assert torch.equal((x != 0).sum(1), lengths[y]) and torch.equal(x[:, 0], y + 1)
        wasted += int((x == 0).sum())
    assert wasted < 0.1 * int(lengths.sum())
    firsts = [int(lengths[y].max()) for _, y in batches]
    assert firsts != sorted(firsts)
    again = torch.cat([y for _, y in split.batches(10, torch.Generator().manual_seed(0))])
    assert torch.equal(again, torch.cat([y for _, y in batches]))


def test_in_order_means_in_order():
    split, lengths = padded(23)
    batches = list(split.batches(10))
    assert torch.cat([y for _, y in batches]).tolist() == list(range(23))
    assert all(x.shape[1] == int(lengths[y].max()) for x, y in batches)


def test_whole_sequences_are_shuffled_as_other_samples_are():
    inputs = torch.arange(40).int().view(10, 4)
    split = TokenSplit(inputs, inputs.long() + 1, tokens=Tokens("language_model", 41))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    x, y = next(split.batches(4, torch.Generator().manual_seed(3)))
    assert torch.equal(x, inputs[order[:4]].long()) and torch.equal(y, x + 1)
