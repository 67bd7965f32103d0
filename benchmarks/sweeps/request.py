"""What one call of the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """The words of one call: overrides and flags."""

    words: list[str]
    multirun: bool = False
    dry_run: bool = False
    show: bool = False
