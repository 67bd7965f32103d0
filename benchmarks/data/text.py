"""Readers of texts: the next token of a long text is predicted, or each of many short ones has a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.pictures import require_own_name, source_folder
from benchmarks.data.raw import Raw, Text, hold_out, raw_of
from benchmarks.data.textfiles import hub_columns, labels_in, lines_of, parquet_columns, text_of, texts_in
from benchmarks.data.tokens import Tokenizer, Tokens, tokenizer_of
from benchmarks.settings.tasks import LANGUAGE_MODEL, TEXT_CLASSIFICATION
from methods.errors import BadInput


def language_model(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Windows of ``shape[0]`` tokens of a text, and for each token the next one.

    The last part (``test``) of the text is the test split, unless there is a text of its own for it. The validation
    split is the beginning of what is left, so that no window reaches from one split into another, and that the text
    right before the test split, which is often of the same play or article, is learned; it is the same for every seed.
    An alphabet of characters is that of all splits. Inputs and targets are (n, T).
    """
    pieces, origin = _running_texts(cfg)
    if "test" not in pieces:
        pieces["train"], pieces["test"] = _parted(pieces["train"], 1 - cfg["test"], "dataset.test")
    if "validation" not in pieces:
        pieces["validation"], pieces["train"] = _parted(pieces["train"], cfg["validation"], "dataset.validation")
    tokenizer = tokenizer_of(cfg["tokenizer"], pieces.values(), padded=False)
    tensors: dict[str, Tensor] = {}
    ratio = 1.0
    for part, text in pieces.items():
        ids = tokenizer.encode([text], None)[0]
        stride = cfg.get("stride") if part == "train" else None
        inputs, targets = _windows(ids, cfg["shape"][0], stride, f"the {part} split of {cfg['name']}")
        tensors |= {f"{part}_inputs": inputs, f"{part}_targets": targets}
        if part == "test":
            ratio = len(text) / len(ids)
    return raw_of(tensors, origin, Text(Tokens(LANGUAGE_MODEL, tokenizer.size), tokenizer, ratio))


def text_classification(cfg: Mapping[str, Any], cache: Path) -> Raw:
    """Texts (n, T) of at most ``shape[0]`` tokens, the shorter ones filled up with padding, and their classes (n,).

    Within a split they are sorted by length, so that neighbours make batches with little padding. Where there is no
    test split, the fraction ``test`` is held out, the same for every seed.
    """
    parts, origin = _labelled_texts(cfg)
    if "test" not in parts:
        texts, labels = parts["train"]
        places = torch.arange(len(texts))
        held = hold_out(places, torch.from_numpy(labels), cfg)
        parts = {
            part: ([texts[row] for row in held[f"{part}_inputs"].tolist()], held[f"{part}_targets"].numpy())
            for part in ("train", "test")
        }
    tokenizer = tokenizer_of(cfg["tokenizer"], parts["train"][0], padded=True)
    assert tokenizer.padding is not None  # padded tokenizers have one
    tensors: dict[str, Tensor] = {}
    ratio = 1.0
    for part, (texts, labels) in parts.items():
        rows = tokenizer.encode(texts, cfg["shape"][0])
        order = np.argsort([len(row) for row in rows], kind="stable")
        tensors[f"{part}_inputs"] = _filled_up([rows[i] for i in order], cfg["shape"][0], tokenizer.padding)
        tensors[f"{part}_targets"] = torch.from_numpy(labels[order])
        if part == "test":
            ratio = sum(map(len, texts)) / max(1, sum(map(len, rows)))
    tokens = Tokens(TEXT_CLASSIFICATION, tokenizer.size, tokenizer.padding)
    return raw_of(tensors, origin, Text(tokens, tokenizer, ratio))


READERS = (language_model, text_classification)


def refuse_missing(cfg: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` where a text's folder, tokenizer packages or repository are not there."""
    if _place(cfg) is None:
        from benchmarks.data.hub import refuse_unreachable

        refuse_unreachable(cfg["hub"], cfg.get("subset"), cfg.get("train_split") or "train", cfg.get("revision"))
    if cfg["tokenizer"] != "characters":
        tokenizer_of(cfg["tokenizer"], (), padded=cfg["task"] == TEXT_CLASSIFICATION)


def _place(cfg: Mapping[str, Any]) -> Path | None:
    for choice in ("text", "sentences"):
        require_own_name(cfg, choice)
    folder = source_folder(cfg)
    if folder is None and not cfg.get("hub"):
        raise BadInput(
            f"the texts of {cfg['name']} are not there: neither dataset.source nor SECATEURS_DATA names a folder, nor "
            "dataset.hub a repository\ntype dataset.source=<folder>, or set SECATEURS_DATA=<root>"
        )
    return folder


def _running_texts(cfg: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """One text for each split that is there, and where they come from."""
    folder, name = _place(cfg), cfg.get("text_column") or "text"
    if folder is not None and cfg.get("train_file"):
        files = {part: cfg.get(f"{part}_file") for part in ("train", "validation", "test")}
        how: tuple[str, str | None] = (cfg.get("encoding") or "utf-8", cfg.get("archive"))
        return {part: text_of(folder, file, *how) for part, file in files.items() if file}, f"folder {folder.name}"
    pieces = {}
    for part, split in _splits(cfg):
        (column,) = _columns(cfg, folder, split, {"text_column": name})
        rows = texts_in(column, name)
        pieces[part] = "".join(row if row.endswith("\n") else f"{row}\n" for row in rows)
    return pieces, _origin(cfg, folder)


def _labelled_texts(cfg: Mapping[str, Any]) -> tuple[dict[str, tuple[list[str], np.ndarray]], str]:
    """Texts and labels of each split that is there, and where they come from."""
    folder = _place(cfg)
    if folder is not None and cfg.get("class_files"):
        how: tuple[str, str | None] = (cfg.get("encoding") or "utf-8", cfg.get("archive"))
        lines = [lines_of(text_of(folder, file, *how)) for file in cfg["class_files"]]
        labels = np.repeat(np.arange(len(lines)), [len(each) for each in lines])
        return {"train": ([text for each in lines for text in each], labels)}, f"folder {folder.name}"
    names = {"text_column": cfg.get("text_column") or "text", "label_column": cfg.get("label_column") or "label"}
    parts = {}
    for part, split in _splits(cfg):
        rows, classes = _columns(cfg, folder, split, names)
        parts[part] = texts_in(rows, names["text_column"]), labels_in(classes, names["label_column"])
    return parts, _origin(cfg, folder)


def _splits(cfg: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The splits that the data set has, and how they are named there."""
    named = [("train", cfg.get("train_split") or "train")]
    return named + [(part, cfg[f"{part}_split"]) for part in ("validation", "test") if cfg.get(f"{part}_split")]


def _columns(cfg: Mapping[str, Any], folder: Path | None, split: str, names: Mapping[str, str]) -> list[list[Any]]:
    return hub_columns(cfg, split, names) if folder is None else parquet_columns(folder, split, names)


def _origin(cfg: Mapping[str, Any], folder: Path | None) -> str:
    if folder is not None:
        return f"folder {folder.name}"
    return f"hub {cfg['hub']}" + (f"@{cfg['revision']}" if cfg.get("revision") else "")


def _parted(text: str, fraction: float, setting: str) -> tuple[str, str]:
    """The first ``fraction`` of the text, and the rest."""
    place = round(fraction * len(text))
    if not 0 < place < len(text):
        raise BadInput(f"{setting} leaves {place} and {len(text) - place} characters; type for instance {setting}=0.1")
    return text[:place], text[place:]


def _windows(ids: np.ndarray, length: int, stride: int | None, what: str) -> tuple[Tensor, Tensor]:
    """(n, length) int32 tokens from every ``stride`` on (None: side by side), and the ones that follow them, int64."""
    if len(ids) <= length:
        raise BadInput(
            f"{what} has {len(ids)} tokens, too few for one window of dataset.shape=[{length}] and the token behind it"
        )
    windows = torch.from_numpy(np.array(ids, dtype=np.int64)).unfold(0, length + 1, stride or length)
    return windows[:, :-1].int().contiguous(), windows[:, 1:].contiguous()


def _filled_up(rows: Sequence[np.ndarray], length: int, padding: int) -> Tensor:
    """(n, length) int32."""
    filled = np.full((len(rows), length), padding, dtype=np.int32)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(filled)


def excerpt(tokenizer: Tokenizer, ids: Tensor, longest: int = 80) -> str:
    """The beginning of the text that ``ids`` (T,) stand for."""
    return tokenizer.decode(ids.tolist()[: 2 * longest])[:longest]
