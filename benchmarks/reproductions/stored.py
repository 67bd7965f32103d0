"""The stored results of a reproduction: tables and ``outcome.json``, from which its page and figures are made."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures.files import FORMS
from benchmarks.records.fingerprint import fingerprint
from benchmarks.reproductions import Claim, Outcome, module_of
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput

OUTCOME, TABLE = "outcome.json", "table.csv"


def write(outcome: Outcome, folder: Path) -> None:
    """Store an outcome in the reproduction's folder."""
    outcome.table.to_csv(folder / TABLE, index=False, float_format="%.10g")
    for name, table in outcome.numbers.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    content = {
        "name": folder.name,
        "claims": [asdict(claim) for claim in outcome.claims],
        "setting": outcome.setting,
        "levels": outcome.levels,
        "fingerprint": fingerprint(),
    }
    write_atomically(folder / OUTCOME, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read(folder: Path) -> Outcome:
    """The stored outcome of a reproduction.

    Raises:
        BadInput: it has not been run, or its files are damaged.
    """
    import pandas as pd

    try:
        content = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        tables = {path.stem: pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in folder.glob("*.csv")}
        claims = [Claim(**claim) for claim in content["claims"]]
        setting, levels = str(content["setting"]), dict(content.get("levels", {}))
        return Outcome(tables.pop(Path(TABLE).stem), claims, setting, levels, tables)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder} holds no outcome to make pages or figures from ({type(error).__name__}).\n"
            f"Run it: python -m benchmarks.reproduce {folder.name}"
        ) from None


def draw(folder: Path) -> list[Path]:
    """Draw a reproduction's figures from what is stored; figures of an earlier version go.

    Raises:
        NotStored: a number that they need is not there; nothing is drawn then.
        RuleBroken: a figure of these numbers would break a rule of the house; nothing is drawn then, either.
        BadInput: it has not been run.
    """
    sheets = module_of(folder.name).figures(read(folder))
    for sheet in sheets.values():
        sheet.finish()
    written = [path for name, sheet in sheets.items() for path in sheet.save(folder, name)]
    remove_figures(folder, written)
    return written


def remove_figures(folder: Path, but: Collection[Path] = ()) -> None:
    """Remove figures of earlier numbers, or all."""
    for path in folder.iterdir():
        if path.suffix.removeprefix(".") in FORMS and path not in but:
            path.unlink()
