"""Read records quickly as rows of a table: a columnar cache of what the boards need, and queries over it.

The cache is one Parquet file beside the records, keyed by each file's time and size and by the code and presets that
rows are made from. Whatever is missing from it or stale is read from the records, so it can be deleted at any time. It
is never the source of truth and holds only what is in the records.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.boards import labels
from benchmarks.boards.board_command import surroundings
from benchmarks.records import code
from benchmarks.records.cell_fields import BUDGETS
from benchmarks.records.fingerprint import pace
from benchmarks.records.keys import dense_key, dense_part, identity, variant_key
from benchmarks.records.schema import FINISHED, Record, flat
from benchmarks.records.store import Problem, Store, once, read
from benchmarks.settings.home import PARTS
from benchmarks.settings.tuning import trials_of
from benchmarks.storage.paths import REPOSITORY, write_atomically
from methods.errors import BadInput
from methods.progress import track

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Kind = TypeVar("Kind", Row, Record)
BETWEEN = " | "  # separates the warnings of one record
CACHE = ".boards.parquet"
STAMP = ("_committed", "_file", "_time", "_size")
MADE_BY = (
    "boards/frame",
    "boards/labels",
    "boards/board_command",
    "settings/tuning",
    "records/code",
    "records/keys",
    "records/names",
    "records/schema",
    "records/store",
    "records/fingerprint",
)
NOT_THE_SETTING = frozenset({"seed", "budget", "measure", "quantise"})  # what is measured does not affect the accuracy
THE_METHOD = frozenset({"method", "tune", *PARTS})
RUN = "_run"  # the column of :func:`run_of`
HIDDEN = (*STAMP, "config", RUN)  # columns of no use in a query


def row_of(record: Record) -> Row:
    """One record as one row: `records.flat`, its label, and what decides which rows may be averaged or compared."""
    config, mark = record.config, record.fingerprint
    widths = [record.unit, [(layer.name, layer.kept) for layer in record.layers]]
    row = flat(record) | {
        "label": labels.label(record),
        "variant": variant_key(without(config, NOT_THE_SETTING)),
        "context": variant_key(without(config, NOT_THE_SETTING | THE_METHOD)),
        "dense_key": dense_key(config),
        "dense_variant": variant_key(dense_part(config)),
        "training": variant_key(training_part(config)),
        "widths": hashlib.sha256(json.dumps(widths).encode()).hexdigest()[:12] if record.layers else None,
        "allocation": _class(config, "allocation"),
        "compensation": _class(config, "compensation"),
        "control_of": labels.control_of(config),
        "repair": labels.repair(config),
        "pace": json.dumps(pace(mark)),
        "torch": mark.get("torch"),
        "cpu": mark.get("cpu"),
        "gpu": mark.get("gpu"),
        "commit": mark.get("commit"),
        "data": mark.get("data"),
        "code": mark.get(code.FIELD),
        "note": record.budget.note,
        "left_alone": "; ".join(f"{each.layer}: {each.reason}" for each in record.left_alone or ()) or None,
        "warnings": BETWEEN.join(record.warnings or ()) or None,
        "trials": trials_of(config),
        "untuned": labels.label(record, tuned=False),
        "has_predictions": bool(record.predictions),
        "curve_steps": len(record.curve or []),
        RUN: json.dumps(_run(config) | {"parts": code.targets_of(config)}),
    }
    row["value"] = None if row["value"] is None else float(row["value"])
    if record.quantised is not None and record.quantised.note:
        row["warnings"] = BETWEEN.join(filter(None, (row["warnings"], record.quantised.note)))
    if record.latency:
        row["latency_note"] = "; ".join(sorted({m.note for m in record.latency if m.note})) or None
    return {name: _clean(value) for name, value in row.items()}


def rows_of(records: Iterable[Record]) -> list[Row]:
    """The rows of ``records``, with their configurations."""
    return [row_of(record) | {"config": record.config} for record in records]


def config_of(row: Row) -> Mapping[str, Any]:
    """The configuration of the row's record, read from its file if the row does not contain it."""
    return row["config"] if "config" in row else read(Path(row["_file"])).config


def training_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine the dense network, and how pruned networks are trained."""
    parts = dense_part(config)
    return parts | {"trainer": {**parts["trainer"], "finetune": (config.get("trainer") or {}).get("finetune")}}


def without(config: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """``config`` without the sections ``names``."""
    return {name: part for name, part in config.items() if name not in names}


def _run(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a board says about the data and the training of its cells, see :func:`run_of`."""
    data, trainer = config.get("dataset") or {}, config.get("trainer") or {}
    sections = {name: trainer.get(name) or {} for name in ("train", "finetune")}
    lengths = {what: {name: section.get(what) for name, section in sections.items()} for what in ("epochs", "samples")}
    budget = config.get("budget") or {}
    asked = any(budget.get(kind) is not None for kind in BUDGETS)
    found = {name: _clean(data.get(name)) for name in ("name", "limit", "validation", "task")}
    distil = (trainer.get("finetune") or {}).get("distil")
    found["distil"] = distil if isinstance(distil, Mapping) and any(value for value in distil.values()) else None
    return found | lengths | {"words": surroundings(config), "asked": asked}


def run_of(row: Row) -> dict[str, Any]:
    """What a board says about the data and the training of the row's cell.

    That is the data set's ``name``, the ``limit`` on its images, the share for ``validation``, ``task``, ``epochs`` and
    ``samples``; ``distil``, the settings of the distillation from the dense network (None without distillation);
    ``words``, which ask for these surroundings on the command line (None where no words do); ``asked``, whether a
    budget was asked for in place of the default one; and ``parts``, the class names of the method's parts.
    """
    found: dict[str, Any] = json.loads(row[RUN])
    return found


def code_changed(row: Row) -> bool | None:
    """Whether the method's code has changed since the record was made; None if the record does not identify it."""
    return code.changed(row.get("code"), run_of(row)["parts"])


def context_of(row: Row) -> dict[str, Any]:
    """What surrounds the method: data set, model, training, calibration."""
    return identity(without(config_of(row), NOT_THE_SETTING | THE_METHOD))


def _class(config: Mapping[str, Any], part: str) -> str | None:
    section = config.get(part)
    return str(section.get("_target_", "")).rpartition(".")[2] if isinstance(section, Mapping) else None


def _clean(value: Any) -> Any:
    """Text of a record without control characters, which would steer a terminal."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in value)


def load(store: Store, committed_only: bool = False) -> tuple[list[Row], list[Problem]]:
    """The rows of all records in ``store``, in a fixed order, and the files that could not be used.

    Args:
        store: the records.
        committed_only: leave out what only this machine has computed.
    """
    digest = _digest()
    known = _read_cache(store, digest)
    current: list[Row] = []
    problems: list[Problem] = []
    fresh = False
    for committed, path in track(list(store.files()), "reading records"):
        if committed_only and not committed:
            continue
        try:
            status = path.stat()
        except OSError:
            status = None  # the store reports what is wrong with the file
        when, size = (status.st_mtime_ns, status.st_size) if status else (0, 0)
        stamp = {"_committed": committed, "_file": str(path), "_time": when, "_size": size}
        row = known.get(tuple(stamp.values())) if status else None
        if row is None:
            found = store.open(path)
            if isinstance(found, Problem):
                problems.append(found)
            if not isinstance(found, Record):
                continue
            row, fresh = row_of(found) | stamp, True
        current.append(row)
    if fresh and not committed_only:
        current = _write_cache(store, digest, current)
    found_at = [(row["_committed"], Path(row["_file"]), row) for row in current]
    kept, doubles = once(found_at, lambda committed, row: (row["key"], _preference(committed, row)))
    return sorted(kept, key=lambda r: (r["dataset"], r["model"], r["method"], r["key"])), [*problems, *doubles]


def _preference(committed: bool, row: Row) -> tuple[bool, bool, str, bool]:
    return row["status"] in FINISHED, not row["unsigned"], row["created"], committed


def _digest() -> str:
    """A digest of the code and the presets that rows are made from."""
    code = [REPOSITORY / "benchmarks" / f"{name}.py" for name in MADE_BY]
    parts = [path.read_bytes() for path in (*code, *sorted(labels.CONF.glob("**/*.yaml")))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _read_cache(store: Store, digest: str) -> dict[tuple[Any, ...], Row]:
    path = store.runs / CACHE
    if not path.is_file():
        return {}
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (OSError, ValueError):
        return {}
    if (table.schema.metadata or {}).get(b"digest") != digest.encode():
        return {}
    return {tuple(row[name] for name in STAMP): row for row in table.to_pylist()}


def _write_cache(store: Store, digest: str, rows: list[Row]) -> list[Row]:
    """Save the rows if possible, and return them in the form in which they will be read again."""
    import pyarrow
    import pyarrow.parquet as parquet

    names = sorted({name for row in rows for name in row})
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    content = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"digest": digest}), content)
    with suppress(BadInput, OSError):  # in a read-only store, reading is merely slower
        write_atomically(store.runs / CACHE, content.getvalue())
    return table.to_pylist()


def records_mark(rows: Sequence[Row]) -> str:
    """A digest of the records that a page was made from, as the report shows it."""
    names = sorted(f"{row['key']} {row['created']} {row['status']}" for row in rows)
    return f"records-{hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """The rows as a pandas table, for queries."""
    import pandas as pd

    return pd.DataFrame([{name: value for name, value in row.items() if name not in HIDDEN} for row in rows])


def select(rows: Sequence[Kind], where: str | None) -> list[Kind]:
    """The rows, or records, for which the pandas query ``where`` holds; all without one."""
    if where is None or not rows:
        return list(rows)
    import pandas as pd

    table = frame([row_of(row) if isinstance(row, Record) else row for row in rows])
    try:
        holds = table.eval(where, engine="python")
        if not isinstance(holds, pd.Series) or not pd.api.types.is_bool_dtype(holds):
            raise ValueError("it is no condition")
        chosen = table.loc[holds].index
    except Exception as error:  # the expression can make pandas raise anything
        raise BadInput(
            f"Cannot apply the query {where!r} ({' '.join(str(error).split())}).\n"
            f"Expected a condition such as \"method == 'spectral' and seed < 3\" over: {', '.join(table.columns)}."
        ) from None
    return [rows[row] for row in chosen]
