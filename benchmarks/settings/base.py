"""The base class of all configuration models, and the code that explains what is wrong with a value.

Models are strict: a boolean is not a number, a number is not a string, and 2.0 is not an integer.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.storage.paths import LONGEST_NAME, NAME
from methods.errors import BadInput

LONGEST = 60  # characters of a value that are shown
Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]  # what becomes part of a path
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
WORDS = {
    "bool": "neither true nor false",
    "int": "not a whole number",
    "float": "not a number",
    "finite_number": "not a finite number",
    "string_type": "not a text",
    "string_pattern": "no name: expected letters, digits, dots, dashes and underscores, and no dot first",
    "string_too_long": "too long for a name, which has at most 80 characters",
    "string_too_short": "empty",
    "list": "not a list",
    "sequence_str": "not a list",
    "tuple": "not a list",
    "too_short": "too short a list",
    "too_long": "too long a list",
    "model": "not a section of keys",
    "dict": "not a section of keys",
    "mapping": "not a section of keys",
}
BOUNDS = {
    "greater_than_equal": ("below", "ge"),
    "greater_than": ("not above", "gt"),
    "less_than_equal": ("above", "le"),
    "less_than": ("not below", "lt"),
}


class Section(BaseModel):
    """A section of the configuration; ``examples`` are good values, or whole overrides, as one types them."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=False)
    examples: ClassVar[Mapping[str, str]] = {}


class OpenSection(Section):
    """A section whose further keys are arguments of the class or function that it names, and are checked there."""

    model_config = ConfigDict(extra="allow")


S = TypeVar("S", bound=Section)


def checked(model: type[S], section: Any, where: str) -> S:
    """Check ``section`` against ``model``.

    Args:
        model: types and ranges.
        section: what the configuration says.
        where: the section's name; empty for the whole configuration.

    Raises:
        BadInput: names the first wrong entry, what was expected, and what to type.
    """
    try:
        return model.model_validate(section)
    except ValidationError as error:
        raise BadInput(explained(error, model, section, where)) from None


def explained(error: ValidationError, model: type[Section], section: Any, where: str) -> str:
    """What is wrong with the first faulty entry of ``section``, in a line or two."""
    faults = error.errors(include_url=False)
    place = _place(faults[0]["loc"], section)
    same = [fault for fault in faults if _place(fault["loc"], section) == place]  # of each member of a union
    key = ".".join([where] * bool(where) + [str(part) for part in place])
    fault = same[0]
    value = _at(section, place)
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind == "missing":
        return f"{key} is missing{_advice(model, place, key) or '; see python run.py --cfg'}"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown_key(key, _siblings(model, place))
    if kind == "literal_error":
        choices = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(str(value), choices, 1)
        return f"{key}={typed(value)} is unknown; choose from {', '.join(choices)}\ntype {key}={(near or choices)[0]}"
    wrong = " and ".join(dict.fromkeys(map(wording, same)))
    return f"{key or 'the configuration'}={typed(value)} is {wrong}{_advice(model, place, key)}"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The message that ``key`` does not exist, with those ``known`` keys of its section that may have been meant."""
    section, _, name = key.rpartition(".")
    prefix = f"{section}." if section else ""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"unknown key '{key}'; did you mean {prefix}{near[0]}?"
    keys = ", ".join(name for name in known if not name.startswith("_"))
    return f"unknown key '{key}'; the keys {f'of {section} ' if section else ''}are {keys}"


def wording(fault: Mapping[str, Any]) -> str:
    """What is wrong, as the end of a sentence that begins with ``KEY=VALUE is``."""
    kind = fault["type"]
    if kind in BOUNDS:
        word, bound = BOUNDS[kind]
        if abs(fault["ctx"][bound]) >= 2**62:
            return "not a whole number of 64 bits"
        return f"{word} {fault['ctx'][bound]:g}"
    for start, words in WORDS.items():
        if kind.startswith(start):
            return words
    return f"not {fault['msg'].removeprefix('Input should be ')}"


def typed(value: Any) -> str:
    """``value`` as it would be typed on the command line, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        text = "{" + ",".join(f"{key}:{typed(each)}" for key, each in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ",".join(map(typed, value)) + "]"
    else:
        text = str(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _place(loc: Sequence[Any], section: Any) -> tuple[Any, ...]:
    """The entries of ``loc`` that are keys of ``section``: pydantic also names the members of unions."""
    place: list[Any] = []
    here = section
    for part in loc:
        if isinstance(here, Mapping) and isinstance(part, str):
            if part not in here and place and not _is_key(part):
                break
            place.append(part)
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            place.append(part)
            here = here[part]
        else:
            break
    return tuple(place)


def _is_key(part: str) -> bool:
    return part.isidentifier() and part not in ("int", "float", "str", "bool")


def _at(section: Any, place: Sequence[Any]) -> Any:
    for part in place:
        section = section.get(part) if isinstance(section, Mapping) else section[part]
    return section


def _siblings(model: type[Section], place: Sequence[Any]) -> list[str]:
    """The keys that the section at ``place`` has."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        inner = next((kind for kind in _models(field.annotation)), None) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _advice(model: type[Section], place: Sequence[Any], key: str) -> str:
    """What to type; an example with an equals sign is used as it is."""
    hint = _example(model, place)
    return f"; type for instance {hint if '=' in hint else f'{key}={hint}'}" if hint and key else ""


def _example(model: type[Section], place: Sequence[Any]) -> str:
    names = [str(part) for part in place if not isinstance(part, int)]
    if not names:
        return ""
    if ".".join(names) in model.examples:
        return model.examples[".".join(names)]
    field = model.model_fields.get(names[0])
    inner = next(iter(_models(field.annotation)), None) if field else None
    if inner is not None:
        return _example(inner, names[1:])
    default = field.get_default() if field and not field.is_required() else None
    if len(names) > 1 or default is None or not isinstance(default, bool | int | float | str | list | tuple):
        return ""
    return typed(default)


def _models(annotation: Any) -> list[type[Section]]:
    """The models that an annotation names, alone or in a union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [each for part in getattr(annotation, "__args__", ()) for each in _models(part)]
