"""Packages whose public names are imported from their homes when they are first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def door(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a package calls ``__getattr__`` and ``__dir__``, so that its public names are imported late.

    Args:
        package: its name.
        homes: public name -> the module that defines it.
    """

    def get(name: str) -> Any:
        """The public name ``name``, imported from its home.

        Raises:
            AttributeError: there is none of that name.
        """
        if name not in homes:
            raise AttributeError(f"{package} has no {name}; it has {', '.join(sorted(homes))}")
        found = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        """The public names, imported or not, and whatever else is there."""
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
