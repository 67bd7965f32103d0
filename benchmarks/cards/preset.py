"""Read what is written about a method: in its preset, in its class, and in the module of that class."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.boards.labels import as_published, choices_of, description, leaves, reconstruction, unpublished
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import safe_name
from methods.errors import BadInput

SENTENCE = re.compile(r"\.\s+(?=[A-Z])|(?<=\))\.\s+")
NAME = r"[A-Z][\w'-]+"
CITATION = re.compile(
    rf"(?P<authors>{NAME}(?:, {NAME})*(?:,? (?:&|and) {NAME}| et al\.)?)(?:, | \()(?P<where>(?:\w+ )?(?:19|20)\d\d)"
)
TITLE = re.compile(r'"([^"]{5,}?),?"')
ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
URL = re.compile(r"https?://[^\s,;)]+")
DOI = re.compile(r"\b(?:doi[ :]\s*|https?://(?:dx\.)?doi\.org/)(10\.\d{4,}/[^\s,;)]+)", re.I)
REFERENCE = re.compile(r"(?:as for|see) :class:`(\w+)`\.?")
ROLE = re.compile(r"(?::\w+:)?`+~?([^`]+)`+")
ARGUMENT = re.compile(r"(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)")


@dataclass(frozen=True)
class Paper:
    """A reference: authors, venue and year; the title and a link if the code names them."""

    citation: str
    title: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Option:
    """One option of a selection: its whole name, its default as YAML has it, and what it means, if that is said."""

    name: str
    default: str
    meaning: str | None


@dataclass(frozen=True)
class Preset:
    """What a preset says.

    Attributes:
        name: the name of the file in conf/method.
        sentence: the idea.
        more: what else its comments say; may be empty.
        paper: None where none is named.
        unpublished: why there is none; None where there is one, or nothing is said.
        parts: the names of its allocation, compensation and schedule.
        options: the options of its selection.
        published: words for what the paper does otherwise; None where none are noted.
        reconstruction: what is a reconstruction or ours; None where nothing is noted.
    """

    name: str
    sentence: str
    more: str
    paper: Paper | None
    unpublished: str | None
    parts: Mapping[str, str]
    options: tuple[Option, ...]
    published: str | None
    reconstruction: str | None


def method_names() -> list[str]:
    """The methods of conf/method, by name."""
    return sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def preset(name: str, selection: Mapping[str, Any], kinds: Sequence[type]) -> Preset:
    """What is written down of a method.

    Args:
        name: the name of the file in conf/method.
        selection: that section of the configuration.
        kinds: the classes of the selection and of the other parts; the paper is looked up in their modules.

    Raises:
        BadInput: the preset has no comment that says what the method is.
    """
    said = description(name)
    if not said:
        raise BadInput(
            f"conf/method/{name}.yaml does not say what the method is; expected a comment: one sentence and the paper"
        )
    sentence, *more = SENTENCE.split(said, maxsplit=1)
    options = tuple(_options(name, selection, kinds[0]))
    modules = [inspect.getdoc(sys.modules[kind.__module__]) or "" for kind in kinds]
    return Preset(
        name,
        sentence.rstrip(".") + ".",
        " ".join(more),
        paper_of(said, "\n\n".join(modules)),
        unpublished(name),
        choices_of(CONF, name),
        options,
        as_published(name),
        reconstruction(name),
    )


def paper_of(said: str, module: str) -> Paper | None:
    """The first reference in ``said``; its title and its number are looked for behind its first author in ``module``.

    A number is only taken if it is written down: in ``said``, or in the paragraph of ``module`` that names the author.
    """
    found = CITATION.search(said)
    if found is None:
        return None
    author = re.split(r",| &| and| et al", found["authors"])[0]
    mention = re.compile(rf"\b{re.escape(author)}\b")
    behind = [text[place.end() :] for text in _paragraphs(module) if (place := mention.search(text))]
    title = next((match[1] for text in behind if (match := TITLE.search(text))), None)
    links = [link for text in (said[found.start() :], *behind) if (link := _link(text))]
    return Paper(f"{found['authors']}, {found['where']}", title, next(iter(links), None))


def _link(text: str) -> str | None:
    if doi := DOI.search(text):
        return f"https://doi.org/{doi[1].rstrip('.')}"
    if number := ARXIV.search(text):
        return f"https://arxiv.org/abs/{number[1]}"
    page = URL.search(text)
    return page[0] if page else None


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]


def _options(name: str, selection: Mapping[str, Any], kind: type) -> Iterator[Option]:
    beside, arguments = _comments(name), _arguments(kind)
    for option, value in leaves(selection):
        last = option.rpartition(".")[2]
        if last != "_target_":
            meaning = beside.get(last) or arguments.get(option.partition(".")[0])
            yield Option(f"selection.{option}", yaml_text(value), meaning)


def yaml_text(value: Any) -> str:
    """A plain value as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(yaml_text(each) for each in value)}]" if isinstance(value, list | tuple) else str(value)


def _comments(name: str) -> dict[str, str]:
    """The comments behind the options of a preset, by the option's last name."""
    text = (CONF / "method" / f"{safe_name(name)}.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^ +(\w+):[^#\n]*# (.*)$", text, re.M)
    return {option: comment.strip() for option, comment in found}


def _arguments(kind: type) -> dict[str, str]:
    """What the docstrings of a class and of its bases say about their arguments, by name."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(each.__doc__ or "").partition("Args:\n")
        names: list[str] = []
        for line in section.split("\n\n")[0].splitlines():
            indent = len(line) - len(line.lstrip())
            if indent == 4 and (match := ARGUMENT.match(line.strip())):
                names = match[1].split(", ")
                found |= {name: match[2] for name in names}
            elif indent > 4:
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
            else:
                break
    return {name: ROLE.sub(r"`\1`", _followed(name, text, kind)).rstrip(".") for name, text in found.items()}


def _followed(name: str, text: str, kind: type) -> str:
    """``text``, or what another class says of the argument where it only refers there."""
    reference = REFERENCE.fullmatch(text)
    other = getattr(sys.modules[kind.__module__], reference[1], None) if reference else None
    return _arguments(other).get(name, text) if isinstance(other, type) and other is not kind else text
