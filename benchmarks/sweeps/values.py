"""Set values in a configuration as Hydra does, and find those on which nothing else depends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

RESOLVER = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*:(?=\s*([^,}]*))")
FROM_WITHIN = {"oc.create", "oc.decode", "oc.deprecated", "oc.select", "oc.dict.keys", "oc.dict.values"}
READS_THE_ENVIRONMENT = "oc.env"


def set_value(config: DictConfig, override: Override) -> None:
    """Set in ``config`` what a word that chooses no file says: ``k=value``, ``+k=value``, ``++k=value``, ``~k``.

    Raises:
        HydraException, OmegaConfBaseException: it cannot be set; ``hydra.compose`` says why.
    """
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        found = OmegaConf.select(config, key, throw_on_missing=False)
        if found is None or (value is not None and value != found):
            raise HydraException(f"cannot delete {key}")
        parent, _, name = key.rpartition(".")
        with open_dict(config):
            del (OmegaConf.select(config, parent) if parent else config)[name]
        return
    appended = override.is_add() and not isinstance(value, dict | list)
    if appended and OmegaConf.select(config, key, throw_on_missing=False) is not None:
        raise HydraException(f"{key} is there already")
    OmegaConf.update(config, key, value, merge=True, force_add=override.is_add() or override.is_force_add())


def plain_value(override: Override) -> bool:
    """Whether a word is ``key=value`` with a number, a switch, null or a text that refers to nothing."""
    value = override.value()
    if override.is_add() or override.is_force_add() or override.is_delete():
        return False
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and _literal(value))


def _literal(text: str) -> bool:
    return "${" not in text and "???" not in text


def mentioned(config: DictConfig) -> set[str] | None:
    """Every name that an interpolation in ``config`` contains; None if interpolations may depend on more than those."""
    names: set[str] = set()
    for text in _texts(OmegaConf.to_container(config, resolve=False)):
        resolvers = {resolver for resolver, _ in RESOLVER.findall(text)}
        nested = re.search(r"\$\{[^}]*\$\{", text)  # the name itself may be computed
        if nested or resolvers - {READS_THE_ENVIRONMENT, *FROM_WITHIN}:
            return None
        names.update(re.findall(r"\w+", text))
    return names


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) and "${" in value:
        yield value


def stands_alone(config: DictConfig, key: str, names: set[str]) -> bool:
    """Whether ``key`` is an untyped value of ``config`` that no interpolation can reach, given their ``names``."""
    *sections, name = key.split(".")
    if names & {*sections, name}:
        return False
    node: Any = config
    for section in (*sections, name):
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is not dict or section not in node:
            return False
        if OmegaConf.is_interpolation(node, section) or OmegaConf.is_missing(node, section):
            return False
        node = node[section]
    return not OmegaConf.is_config(node)


def put(found: dict[str, Any], override: Override) -> None:
    """Set ``key=value`` in the plain configuration ``found``."""
    *sections, name = override.key_or_group.split(".")
    for section in sections:
        found = found[section]
    found[name] = override.value()


def overlapping(overrides: Sequence[Override]) -> set[str]:
    """Keys that several words set, wholly or in part."""
    keys = sorted(override.key_or_group for override in overrides)
    pairs = ((one, other) for number, one in enumerate(keys) for other in keys[number + 1 :])
    return {key for one, other in pairs if other == one or other.startswith(f"{one}.") for key in (one, other)}
