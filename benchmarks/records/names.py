"""Translate names of classes in records between the original names and today's.

A record's key is a hash of its configuration, and a configuration names classes by their modules. When a module moves,
the key must stay, so keys are computed with the frozen names, while records and configurations show today's. Old names
in a user's configuration keep working.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# The module's name in keys -> its name today. If a module moves again, only the right side changes. A new module needs
# no line: its first name is the one in keys.
MODULES = {
    "benchmarks.readers": "benchmarks.data.readers",
    "methods.combinatorial": "methods.hessian.cbs",
    "methods.dpp": "methods.dpp.selection",
    "methods.eigendamage": "methods.hessian.eigendamage",
    "methods.exact_obs": "methods.hessian.exact_obs",
    "methods.filter_obs": "methods.hessian.filter_obs",
    "methods.flat_minimum": "methods.hessian.flat_minimum",
    "methods.hap": "methods.hessian.hap",
    "methods.importance": "methods.baselines.onorm",
    "methods.kronecker": "methods.hessian.kronecker",
    "methods.lq_allocation": "methods.lq.allocation",
    "methods.lq_compensation": "methods.lq.compensation",
    "methods.lq_selection": "methods.lq.selection",
    "methods.magnitude": "methods.baselines.magnitude",
    "methods.moment_matching": "methods.spectral.moment_matching",
    "methods.obd": "methods.hessian.obd",
    "methods.obs": "methods.hessian.obs",
    "methods.random": "methods.baselines.random",
    "methods.recurrent": "methods.spectral.recurrent",
    "methods.sap": "methods.lq.sap",
    "methods.spectral": "methods.spectral.selection",
    "methods.thinet": "methods.baselines.thinet",
}
_FROZEN = {today: frozen for frozen, today in MODULES.items()}


def today(name: str) -> str:
    """The current full name of a class or function, whichever of its names is given."""
    return _moved(name, MODULES)


def frozen(name: str) -> str:
    """The full name that keys are computed with."""
    return _moved(name, _FROZEN)


def with_todays(config: Any) -> Any:
    """A plain configuration with today's names; the given one is not changed."""
    return _renamed(config, today)


def with_frozen(config: Any) -> Any:
    """A plain configuration with the names that keys are computed with; the given one is not changed."""
    return _renamed(config, frozen)


def _moved(name: str, modules: Mapping[str, str]) -> str:
    module, dot, last = name.rpartition(".")
    return f"{modules.get(module, module)}{dot}{last}"


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {
            name: rename(part) if name in ("_target_", "reader") and isinstance(part, str) else _renamed(part, rename)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_renamed(part, rename) for part in value]
    return value
