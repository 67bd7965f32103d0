"""Whether what a section of the configuration gives to a class or function fits its signature, before it is called."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from methods.errors import BadInput

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def fitted(factory: Callable[..., Any], given: Mapping[str, Any], where: str, free: Collection[str] = ()) -> dict:
    """``given`` with words turned into the numbers or switches that ``factory`` is annotated to take.

    Args:
        factory: class or function; annotations that are not there or cannot be resolved are not looked at.
        given: arguments by name; Hydra's own, which begin with an underscore, pass.
        where: the section's name, for messages.
        free: further names that may be given.

    Raises:
        BadInput: an argument that ``factory`` does not take, or a value of another type; the first one.
    """
    parameters = inspect.signature(factory).parameters
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
        if key in hints and not isinstance(value, Mapping):
            fitting = _fit(value, hints[key], f"{where}.{key}", parameters[key].default)
            result[key] = fitting if isinstance(value, str) else value
    return result


def _unknown(key: str, names: list[str], where: str, factory: Callable[..., Any]) -> str:
    what = f"unknown key '{where}.{key}'"
    if not names:
        return f"{what}: {factory.__name__} takes no options; leave it out"
    near = difflib.get_close_matches(key, names, 1)
    hint = f"; did you mean {where}.{near[0]}?" if near else ""
    return f"{what}{hint}\n{factory.__name__} takes: {', '.join(names)}"


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except Exception:  # a name that exists for type checkers only, or whatever a user's annotation raises
        return {}


def _fit(value: Any, hint: Any, key: str, default: Any) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    config = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=config)
    except PydanticUserError:  # annotated with something of its own that pydantic cannot look into
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    except Exception:  # a validator of the user's own type
        return value
    wanted = " or ".join(dict.fromkeys(_wanted(fault) for fault in faults))
    usual = default if isinstance(default, bool | int | float | str) else None
    example = "" if usual is None else f"; type for instance {key}={str(usual).lower()}"
    raise BadInput(f"{key}={value} is not {wanted}{example}")


def _wanted(fault: Any) -> str:
    if fault["type"] == "sequence_str":
        return "a list"
    return fault["msg"].removeprefix("Input should be ").split(",")[0]
