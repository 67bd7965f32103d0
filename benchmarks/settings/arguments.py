"""Check that a section of the configuration fits the signature of the class or function that it names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from benchmarks.settings.base import typed, wording
from methods.errors import BadInput

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
PLAIN = ("int_", "float_", "bool_", "string_", "list_", "tuple_type", "sequence_str", "finite_number")
"""Kinds of faults that are refused. Whether a word may stand for an object of some class, only its taker knows."""
SCALARS = (bool, int, float, str)


def imported(target: str) -> Any:
    """Import the object at a dotted path: as many parts as possible are modules, the rest attributes.

    Raises:
        ImportError, AttributeError: there is no such object; importing a user's module may raise anything else.
    """
    parts = target.split(".")
    found = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:number]))
            except ModuleNotFoundError as error:
                raise AttributeError(f"{'.'.join(parts[: number - 1])} has no {part}") from error
        found = getattr(found, part)
    return found


def fitted(
    factory: Callable[..., Any], given: Mapping[str, Any], where: str, free: Collection[str] = ()
) -> dict[str, Any]:
    """``given`` with its values converted to the types that ``factory`` is annotated with.

    Args:
        factory: class or function; missing annotations and those that cannot be resolved are ignored.
        given: arguments by name; Hydra's own, which begin with an underscore, are accepted.
        where: the section's name, for messages.
        free: further names that may be given.

    Raises:
        BadInput: there is an argument that ``factory`` does not take, or a value of a wrong type; names the first.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return dict(given)
    names = [name for name, parameter in parameters.items() if parameter.kind in NAMED]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(factory)
    result = dict(given)
    for key, value in given.items():
        if key.startswith("_") or key in free:
            continue
        if key not in names:
            if takes_any:
                continue
            raise BadInput(_unknown(key, names, where, factory))
        default = parameters[key].default
        if key in hints and not (value is None and default is None) and not _holds_object(value):
            result[key] = fit(value, hints[key], f"{where}.{key}", default)
    return result


def _holds_object(value: Any) -> bool:
    """Whether Hydra will build something in ``value`` or in what it holds."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_object, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_object, value))


def _unknown(key: str, names: list[str], where: str, factory: Callable[..., Any]) -> str:
    what, taker = f"unknown key '{where}.{key}'", getattr(factory, "__name__", str(factory))
    if not names:
        return f"{what}: {taker} takes no options; leave it out"
    near = difflib.get_close_matches(key, names, 1)
    hint = f"; did you mean {where}.{near[0]}?" if near else ""
    return f"{what}{hint}\n{taker} takes: {', '.join(names)}"


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except Exception:  # a name that exists for type checkers only, or whatever a user's annotation raises
        return {}


def fit(value: Any, hint: Any, key: str, default: Any = None) -> Any:
    """Convert ``value`` to ``hint`` if that is a number, string or boolean, or a list of them; else leave it unchanged.

    Args:
        value: what the configuration says.
        hint: an annotation.
        key: its full name, for messages.
        default: an example of a good value; None for none.

    Raises:
        BadInput: ``value`` is not a number, string or boolean where one is expected.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    config = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=config)
    except PydanticUserError:  # annotated with something of its own that pydantic cannot look into
        return value
    try:
        fitting = adapter.validate_python(value)
        if not _same_kind(value, fitting):
            raise BadInput(f"{key}={typed(value)} is not {_kind_of(fitting)}{_instance(key, default)}")
        plain = isinstance(fitting, SCALARS) or (
            isinstance(fitting, list | tuple) and all(isinstance(each, SCALARS) for each in fitting)
        )
        return fitting if plain else value
    except BadInput:
        raise
    except ValidationError as error:
        faults = error.errors(include_url=False)
    except Exception:  # a validator of the user's own type
        return value
    inside = isinstance(value, Mapping) and any(fault["loc"] and fault["loc"][0] in value for fault in faults)
    if inside or not all(fault["type"].startswith(PLAIN) for fault in faults):
        return value
    wrong = " and ".join(dict.fromkeys(wording(fault) for fault in faults))
    raise BadInput(f"{key}={typed(value)} is {wrong}{_instance(key, default)}")


def _instance(key: str, default: Any) -> str:
    return f"; type for instance {key}={typed(default)}" if isinstance(default, SCALARS) else ""


def _same_kind(value: Any, fitting: Any) -> bool:
    """Whether no boolean was converted to a number, nor the reverse; a string may stand for either."""
    if isinstance(value, list | tuple) and isinstance(fitting, list | tuple):
        return len(value) == len(fitting) and all(map(_same_kind, value, fitting))
    if isinstance(value, str) or isinstance(fitting, str):
        return not isinstance(value, bool)
    return isinstance(fitting, bool) == isinstance(value, bool)


def _kind_of(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list of such values"
    return "a switch" if isinstance(value, bool) else "a number" if isinstance(value, int | float) else "a text"
