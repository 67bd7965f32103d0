"""Import the public names of a package from their modules when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def door(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``, which import its public names when they are used.

    Args:
        package: its name.
        homes: public name -> the module that defines it.
    """

    def get(name: str) -> Any:
        """Import the public name ``name`` from its module.

        Raises:
            AttributeError: there is none of that name.
        """
        if name not in homes:
            raise AttributeError(f"{package} has no {name}; it has {', '.join(sorted(homes))}")
        found = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        """List the public names, imported or not, and all other names of the package."""
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
