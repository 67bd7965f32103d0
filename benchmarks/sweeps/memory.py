"""A cache of plans, since composing takes a hundred times longer than looking up.

A plan is cached under everything that it depends on: the words, the contents of all configuration files, and the
values of the environment variables that words and files refer to. If they refer to anything else outside (a clock,
Hydra's own section, a resolver of the user's), nothing is cached.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import __version__ as hydra_version

from benchmarks.storage.paths import write_atomically
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.values import FROM_WITHIN, READS_THE_ENVIRONMENT, RESOLVER
from methods.errors import BadInput

FORMAT = 3  # raised when what is remembered of a cell changes
VARIABLE = re.compile(r"""['"]?(\w+)['"]?\s*""")


class Memory:
    """Cells by the words that asked for them, valid for one state of the files and of what they refer to."""

    def __init__(self, composer: Composer, file: Path) -> None:
        self.file = file
        texts = list(_texts(composer))
        outside = from_outside([text for name, text in texts if not name.startswith("hydra/")])
        state = json.dumps([FORMAT, hydra_version, composer.name, composer.own, texts, outside])
        self.stamp = hashlib.sha256(state.encode()).hexdigest()
        self.useful = outside is not None
        self.entries: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(file.read_text())
            if content["stamp"] == self.stamp and self.useful:
                self.entries = content["entries"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # an unreadable cache counts as empty

    def name(self, words: Sequence[str]) -> str | None:
        """The cache key of the cell of ``words``; None if it must not be cached."""
        outside = from_outside(words)
        return json.dumps([list(words), outside]) if self.useful and outside is not None else None

    def save(self) -> None:
        """Keep the entries for the next call; a read-only cache is no obstacle."""
        with suppress(OSError, BadInput):
            write_atomically(self.file, json.dumps({"stamp": self.stamp, "entries": self.entries}))


def from_outside(texts: Iterable[str]) -> dict[str, str | None] | None:
    """The environment variables that ``texts`` refer to, with their values; None if they refer to anything else."""
    found: dict[str, str | None] = {}
    for text in texts:
        text = text.replace("\\", "")  # Hydra writes the values of a sweep with its special characters escaped
        for resolver, argument in RESOLVER.findall(text):
            if resolver in FROM_WITHIN:
                continue
            name = VARIABLE.fullmatch(argument)
            if resolver != READS_THE_ENVIRONMENT or name is None:
                return None
            found[name.group(1)] = os.environ.get(name.group(1))
    return found


def _texts(composer: Composer) -> Iterator[tuple[str, str]]:
    """Name and content of every configuration file that may be chosen, but those of Hydra's own package."""
    folders: list[Path] = []
    for scheme, path in composer.sources():
        if scheme == "file":
            folders.append(Path(path))
        elif scheme == "pkg" and path != "hydra.conf":
            spec = importlib.util.find_spec(path.replace("/", "."))
            folders += [Path(place) for place in (spec.submodule_search_locations or [] if spec else [])]
    for folder in dict.fromkeys(folders):
        for file in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
            yield file.relative_to(folder).as_posix(), file.read_text(encoding="utf-8", errors="replace")
