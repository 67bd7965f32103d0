"""Find pretrained networks and tokenizers on this machine: in a folder, or in an installed package."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.storage.hub import unreachable
from methods.errors import BadInput

CONFIG = "config.json"
EXTRA = "pip install 'secateurs[transformers]'"


def folder_of(source: str) -> Path | None:
    """The folder that ``source`` names: itself, or the one with ``config.json`` in the installed package of this name.

    None if it is neither, and so names a repository of the Hugging Face hub.
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


def had(load: Callable[..., Any], source: str, **how: Any) -> Any:
    """Call ``load``, a ``from_pretrained`` of transformers, on a folder, a package or a repository of the hub.

    A hub that does not answer is tried once; then earlier downloads are used. A repository's own code is never run.

    Raises:
        BadInput: the hub does not answer, and nothing was downloaded before.
        Exception: whatever the library raises.
    """
    folder = folder_of(source)
    local = folder is not None or Path(source).expanduser().exists()
    silent = None if local else unreachable(source, "model")
    try:
        return load(folder or source, trust_remote_code=False, local_files_only=silent is not None, **how)
    except OSError as error:
        if silent is None:
            raise
        raise BadInput(f"the Hugging Face hub: {silent}") from error


def portable(source: str) -> str:
    """``source`` as a record names it: of a path on this machine, only the last part."""
    local = source.startswith(("/", "~", ".")) or "\\" in source
    return Path(source.replace("\\", "/")).name or source if local else source


def needs_transformers(key: str, value: str, instead: str) -> None:
    """Raise :class:`BadInput` where the optional packages are missing that ``key=value`` needs."""
    for package in ("tokenizers", "transformers"):
        if find_spec(package) is None:
            raise BadInput(f"{key}={value} needs the package {package}, not installed here; type {EXTRA}\nor {instead}")
