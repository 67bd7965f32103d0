"""Compose configurations from command-line words, with Hydra's public functions.

Composing takes Hydra a tenth of a second, most of which goes into finding and merging files. The cells of a sweep
choose few combinations of files and differ in plain values. So each combination is composed once, by ``hydra.compose``,
and the values are set in a copy; values that nothing refers to are set after everything else is resolved. Where that is
not enough (an error, a value that depends on Hydra's own section), ``hydra.compose`` composes all words.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.records.names import with_todays
from benchmarks.settings.home import PARTS, ROOT
from benchmarks.sweeps.explaining import Explained, without_keys
from benchmarks.sweeps.values import mentioned, overlapping, plain_value, put, set_value, stands_alone
from methods.errors import BadInput

VERSION_BASE = "1.3"  # of Hydra's defaults
KEPT = 200  # compositions, about 0.1 MB each
CHOICE = re.compile(r"\+*([\w/]+)=([\w,.-]+)")  # a word that may choose files, several in a sweep


class Composer:
    """Composes configurations of one folder.

    Args:
        folder: the folder of the configurations.
        name: the name of the root configuration in it.
        own: words on Hydra itself that hold for all configurations, such as ``hydra.searchpath=[...]``.
        running: compose with the application that runs in this process, which may have more folders than ``folder``.
    """

    def __init__(self, folder: Path, name: str | None = ROOT, own: Sequence[str] = (), running: bool = False) -> None:
        self.folder, self.name, self.own, self.running = folder, name, list(own), running
        self.composed: dict[tuple[str, ...], _Composed] = {}
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, set[str]] = {}
        self.found: list[tuple[str, str]] = []

    @classmethod
    def of_application(cls, folder: Path, config: DictConfig) -> Composer:
        """Composes what the jobs of the application that runs get; ``config`` is that of its sweep or its only job."""
        own = [word for word in config.hydra.overrides.hydra if not word.startswith("hydra.mode=")]
        made = cls(folder, config.hydra.job.config_name, own, running=True)
        made.found = _sources(config)
        return made

    def sources(self) -> list[tuple[str, str]]:
        """Scheme and path of all places with configurations, those that ``hydra.searchpath`` adds among them."""
        if not self.found:
            self.master([])
        return self.found

    @contextmanager
    def loading(self) -> Iterator[ConfigLoader]:
        """Hydra, ready to compose from these folders, and its loader."""
        hydra = GlobalHydra.instance()
        there = hydra.hydra
        if self.running and there is not None:
            yield hydra.config_loader()
            return
        hydra.clear()
        try:
            initialize_config_dir(str(self.folder.resolve()), version_base=VERSION_BASE)
            yield hydra.config_loader()
        finally:
            hydra.clear()
            if there is not None:
                hydra.initialize(there)

    def master(self, words: Sequence[str]) -> DictConfig:
        """The configuration that ``words`` give, with Hydra's own section."""
        with Explained(self.folder, words), self.loading():
            config = compose(self.name, [*self.own, *words], return_hydra_config=True)
        self.found = _sources(config)
        return config

    def cell(self, words: Sequence[str]) -> dict[str, Any]:
        """The plain, resolved configuration of one cell.

        Raises:
            BadInput: there is no such choice or key, or a word cannot be read.
        """
        with Explained(self.folder, words):
            try:
                found = self._from_parts(words)
            except (HydraException, OmegaConfBaseException, _Whole):
                try:
                    found = self._whole(words)
                except ConfigCompositionException:
                    self._ask_the_parts(words)
                    raise
        if (found.get("allocation") or {}).get("record") or found.get("tune"):
            from benchmarks.sweeps.copying import resolved

            return resolved(found)
        return found

    def _from_parts(self, words: Sequence[str]) -> dict[str, Any]:
        """The composition of the words that choose files, with the values that the others set."""
        with self.loading() as loader:
            overrides = [self._read(word) for word in words]
            choices = [override for override in overrides if self._chooses(override, loader)]
            composed = self._composed(tuple(str(override.input_line) for override in choices))
        values = [override for override in overrides if override not in choices]
        twice = overlapping(values)
        alone = [o for o in values if plain_value(o) and o.key_or_group not in twice and composed.alone(o.key_or_group)]
        rest = [override for override in values if override not in alone]
        if any("${" in str(override.value()) for override in rest):
            alone, rest = [], values
        found = copy.deepcopy(composed.with_values(rest))
        for override in alone:
            put(found, override)
        return _seeded(with_todays(found))

    def _composed(self, choices: tuple[str, ...]) -> _Composed:
        if choices not in self.composed:
            if len(self.composed) >= KEPT:
                self.composed.clear()
            self.composed[choices] = _Composed(compose(self.name, [*self.own, *choices]))
        return self.composed[choices]

    def _whole(self, words: Sequence[str]) -> dict[str, Any]:
        """Compose all words with ``hydra.compose``; the resolver ``hydra:`` gives the same values as in a job."""
        before = HydraConfig.instance().cfg
        with self.loading():
            config = compose(self.name, [*self.own, *words], return_hydra_config=True)
        try:
            HydraConfig.instance().set_config(config)
            return plain(config)
        finally:
            HydraConfig.instance().cfg = before

    def _ask_the_parts(self, words: Sequence[str]) -> None:
        """Where an option of a part is unknown, let the check of the part's class say which one was meant.

        Raises:
            BadInput: the check finds the mistake.
        """
        loose = []
        for word in words:
            override = self._read(word)
            section, dot, _ = override.key_or_group.partition(".")
            unknown = dot and section in (*PARTS, "model") and override.type == OverrideType.CHANGE
            loose.append(f"++{word}" if unknown else word)
        if loose != list(words):
            from benchmarks.cells.parts import check

            with suppress(HydraException, OmegaConfBaseException):
                check(self._whole(loose))

    def require_keys(self, words: Sequence[str]) -> None:
        """Refuse a file without keys among those that ``words`` choose, directly or through other files.

        Raises:
            BadInput: there is such a file; the message names it.
        """
        named = [match for word in words if (match := CHOICE.fullmatch(word))]
        chosen = [f"{match[1]}/{choice}" for match in named for choice in match[2].split(",")]
        firsts = [match[0].partition(",")[0] for match in named]
        try:
            with self.loading() as loader:
                found = loader.compute_defaults_list(str(self.name), [*self.own, *firsts], RunMode.RUN)
            chosen += [str(default.config_path) for default in found.defaults]
        except OSError:  # Hydra cannot go on at one of them, and does not say which
            chosen += [path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.rglob("*.yaml")]
        except Exception:  # whatever else is wrong has been said
            pass
        if said := without_keys(self.folder, [str(self.name), *chosen]):
            raise BadInput(said)

    def _read(self, word: str) -> Override:
        if word not in self.parsed:
            [self.parsed[word]] = OverridesParser.create().parse_overrides([word])
        return self.parsed[word]

    def _chooses(self, override: Override, loader: ConfigLoader) -> bool:
        """Whether a word chooses a file or concerns Hydra; a mapping given to a group sets values."""
        key = override.key_or_group
        if override.package is not None or override.is_hydra_override() or key == "hydra":
            return True
        if override.is_sweep_override():
            raise _Whole  # which refuses it
        parent, _, name = key.rpartition("/")
        if parent not in self.groups:
            self.groups[parent] = set(loader.get_group_options(parent, ObjectType.GROUP, self.name, self.own))
        return name in self.groups[parent] and not isinstance(override.value(), dict)


def _sources(config: DictConfig) -> list[tuple[str, str]]:
    return [(source.schema, source.path) for source in config.hydra.runtime.config_sources]


class _Composed:
    """The composition of a combination of files, and what it resolves to with some values set."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.names = mentioned(config)
        self.keys: dict[str, bool] = {}
        self.resolved: dict[Any, dict[str, Any]] = {}

    def alone(self, key: str) -> bool:
        """Whether nothing else depends on the value of ``key``, so that it can be set after all is resolved."""
        if key not in self.keys:
            self.keys[key] = self.names is not None and stands_alone(self.config, key, self.names)
        return self.keys[key]

    def with_values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """The plain, resolved configuration, with the current environment; the caller must not change it."""
        key = (tuple(override.input_line for override in overrides), frozenset(os.environ.items()))
        if key not in self.resolved:
            config = copy.deepcopy(self.config)
            for override in overrides:
                set_value(config, override)
            if len(self.resolved) >= KEPT:
                self.resolved.clear()
            self.resolved[key] = plain(config)
        return self.resolved[key]


class _Whole(Exception):
    """The words have to be composed as a whole."""


def plain(config: DictConfig) -> dict[str, Any]:
    """``config`` without Hydra's section, resolved, as plain values."""
    found = {}
    for key in config:
        if key != "hydra":
            value = "???" if OmegaConf.is_missing(config, key) else config[key]
            found[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return _seeded(with_todays(found))


def _seeded(found: dict[str, Any]) -> dict[str, Any]:
    """Convert a seed from ``seed=${oc.env:SEED}`` to a number, since environment variables are strings."""
    if isinstance(seed := found.get("seed"), str) and seed.removeprefix("-").isdecimal():
        found["seed"] = int(seed)
    return found
