"""From words to configurations with Hydra, and from Hydra's errors to messages for people."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.records.names import with_todays
from benchmarks.settings.home import ROOT
from benchmarks.storage.paths import write_atomically
from benchmarks.sweeps.explaining import Explained
from methods.errors import BadInput

MEMORY_FORMAT = 2  # raised when what is remembered of a cell changes
KEPT_FRAMES = 200  # about 0.1 MB each; what falls out is composed anew


class _Kept(dict[Any, Any]):
    """What was read or composed once; it belongs to its process and is not sent with a job to another one."""

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


@dataclass(frozen=True)
class _Shared:
    """What the composers of a process share: files as they were parsed, and frames, which are what they merge to."""

    files: _Kept = field(default_factory=_Kept)
    frames: _Kept = field(default_factory=_Kept)


@functools.lru_cache(maxsize=4)
def _shared(_folder: Path, _state: str) -> _Shared:
    """One for each folder in each state of its files."""
    return _Shared()


class _Repository(ConfigRepository):
    """Hydra's files, each parsed once. Hydra copies this object for every composition, and the copies share them."""

    def __init__(self, config_search_path: ConfigSearchPath, files: _Kept) -> None:
        super().__init__(config_search_path)
        self.files = files

    def __deepcopy__(self, _memo: object) -> _Repository:
        return copy.copy(self)  # what initialises its sources anew makes a new list of them

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.files = _Kept()  # of other folders, where the root configuration adds some

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.files:
            self.files[config_path] = super().load_config(config_path)
        return copy.deepcopy(self.files[config_path])  # type: ignore[no-any-return]  # Hydra changes what it is given


class _Loader(ConfigLoaderImpl):
    """Hydra's loader, which reads and merges the files of the same choices once.

    That takes most of the time of composing, and a sweep composes few choices many times: to plan its cells, and once
    for every job that its launcher runs in this process. The other words are applied to a copy, by Hydra's own
    functions.
    """

    def __init__(self, folder: Path, state: str) -> None:
        search_path = create_config_search_path(str(folder))
        super().__init__(search_path)
        shared = _shared(folder, state)
        self.repository = _Repository(search_path, shared.files)
        self.folder = folder
        self.frames = shared.frames
        self.parsed = _Kept()

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """What Hydra gives, with its own section."""
        parsed = self.parse(overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        choices, values = self.split(parsed)
        config = copy.deepcopy(self.frame(config_name, choices, run_mode, from_shell, validate_sweep_overrides))
        try:
            self._apply_overrides_to_config([o for o in values if not o.is_sweep_override()], config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException from error
        own = [o for o in parsed if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in own]
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
        )
        return config

    def frame(
        self,
        config_name: str | None,
        choices: tuple[str, ...],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """What Hydra gives for ``choices`` alone: to be copied, not to be changed."""
        own = (Path.cwd(), JobRuntime.instance().get("name"))  # what Hydra's section has of this process
        key = (config_name, choices, run_mode, from_shell, validate_sweep_overrides, own)
        made: DictConfig | None = self.frames.get(key)
        if made is None:
            made = super().load_configuration(
                config_name, list(choices), run_mode, from_shell, validate_sweep_overrides
            )
            if any("env_copy" in choice for choice in choices):
                return made  # with values of the environment
            while len(self.frames) >= KEPT_FRAMES:
                self.frames.pop(next(iter(self.frames)))
            self.frames[key] = made
        return made

    def parse(self, words: Sequence[str]) -> list[Override]:
        """Hydra's reading of each word; the cells of a sweep have most of them in common.

        Raises:
            BadInput: a word adds folders of configurations, whose files no key of a plan would tell apart.
        """
        parser = OverridesParser.create(self)
        for word in words:
            if word not in self.parsed:
                [override] = parser.parse_overrides([word])
                if override.key_or_group == "hydra.searchpath":
                    raise BadInput(
                        "hydra.searchpath adds files that cells would not be told apart by; put yours into a copy of "
                        "conf\nand type SECATEURS_CONF=<that folder> python run.py ..."
                    )
                self.parsed[word] = override
        return [self.parsed[word] for word in words]

    def split(self, overrides: Sequence[Override]) -> tuple[tuple[str, ...], list[Override]]:
        """The words that choose a file, or concern Hydra itself, and the overrides that set a value."""
        choices = tuple(o.input_line or "" for o in overrides if self._chooses(o))
        return choices, [o for o in overrides if not self._chooses(o)]

    def _chooses(self, override: Override) -> bool:
        key = override.key_or_group
        if override.package is not None or key.split(".")[0].split("/")[0] == "hydra":
            return True
        return (self.folder / key).is_dir() and not isinstance(override.value(), dict)  # a mapping sets values


class Composer:
    """Composes configurations of one folder.

    Hydra's launchers want the master configuration of the sweep and Hydra's own loader; ``hydra.main`` would build
    both, but gives no way to launch only the cells that are missing, nor to conclude the sweep with our exit code.
    That is why Hydra's internal class stands here, and nowhere else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = _state(folder)
        self.loader = _Loader(folder, self.state)
        self.bare_frames: dict[tuple[str, ...], DictConfig] = {}  # without Hydra's section, which takes long to copy
        GlobalHydra.instance().clear()
        self.hydra = Hydra(ROOT, self.loader)
        GlobalHydra.instance().initialize(self.hydra)

    def master(self, words: Sequence[str]) -> DictConfig:
        """The configuration of a sweep, with Hydra's own section."""
        with Explained(self.folder):
            return self.hydra.compose_config(ROOT, list(words), run_mode=RunMode.MULTIRUN, with_log_configuration=False)

    def cell(self, words: Sequence[str]) -> dict[str, Any]:
        """The plain, resolved configuration of one cell, from the frame that its launcher will ask for too."""
        with Explained(self.folder):
            choices, values = self.loader.split(self.loader.parse(words))
            if choices not in self.bare_frames:
                self.bare_frames[choices] = _without_hydra(self.loader.frame(ROOT, choices, RunMode.RUN))
            config = copy.deepcopy(self.bare_frames[choices])
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
            found = plain(config)
        if (found.get("allocation") or {}).get("record"):
            from benchmarks.sweeps.copying import resolved

            return resolved(found)
        return found

    def strictly(self, words: Sequence[str]) -> dict[str, Any]:
        """What :meth:`cell` gives, but refused where there is no such key, for those who do not build the parts."""
        with Explained(self.folder):
            self.hydra.compose_config(ROOT, list(words), run_mode=RunMode.RUN, with_log_configuration=False)
        return self.cell(words)


def plain(config: DictConfig) -> dict[str, Any]:
    """``config`` without Hydra's section, resolved, as plain values."""
    found = {}
    for key in config:
        if key != "hydra":
            value = "???" if OmegaConf.is_missing(config, key) else config[key]
            found[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return with_todays(found)


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _state(folder: Path) -> str:
    """A digest that changes with any of the configuration files."""
    stamp = [(str(p.relative_to(folder)), p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*.yaml")]
    return hashlib.sha256(json.dumps(sorted(stamp)).encode()).hexdigest()


class Memory:
    """Remembers what composing gave, since it takes a hundred times longer than looking up.

    Valid for one state of the configuration files; forgotten when any of them changes.
    """

    def __init__(self, composer: Composer, file: Path) -> None:
        self.file = file
        self.stamp = f"{MEMORY_FORMAT} {composer.state}"
        self.entries: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(file.read_text())
            if content["stamp"] == self.stamp:
                self.entries = content["entries"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a memory that cannot be read is no memory

    def save(self) -> None:
        """Keep the entries for the next call; a read-only cache is no obstacle."""
        with suppress(OSError, BadInput):
            write_atomically(self.file, json.dumps({"stamp": self.stamp, "entries": self.entries}))
