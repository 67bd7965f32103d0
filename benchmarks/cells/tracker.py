"""Weights & Biases behind three verbs: ``log`` while a cell runs, ``summary`` and ``table`` when it is done.

One run per cell, grouped by sweep, closed whatever happens. The record is the result; the tracker only shows it. So a
tracker that does not work is a warning, never a failed cell: without a key or a network, ``online`` becomes
``offline`` within twenty seconds, and an offline run can be uploaded later with ``wandb sync``.

``wandb`` is imported only when it is used, and writes nothing outside the configured folder.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from benchmarks.records.keys import cell_key, recordable
from methods.errors import BadInput, first_line

if TYPE_CHECKING:
    from benchmarks.records.schema import Record

MODES = ("offline", "online", "disabled")
PROBE_SECONDS = 4.0
START_SECONDS = 12.0  # together with the probe, less than the twenty seconds promised
FINISH_SECONDS = 15.0
SWEEP = "WANDB_SWEEP_ID"
JOB = "cell"  # W&B's job type of a run of a cell
BOARD = "board"  # and of one that shows boards
FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}
QUIET: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "x_disable_stats": True,
    # The record's fingerprint has the software and hardware; host, user, paths and arguments are private.
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
}

logger = logging.getLogger(__name__)


class Tracker:
    """One run, or nothing at all when tracking is disabled or did not start."""

    def __init__(self, run: Any = None) -> None:
        self._run = run

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """One point of each curve in ``values`` at ``step``. Steps may begin again: each curve has its own."""
        self._try("log", lambda run: run.log({**values, "step": step}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final figures; None is left out."""
        known = {name: value for name, value in values.items() if value is not None}
        self._try("summary", lambda run: run.summary.update(known))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table with one line per row; the columns are all names that occur. Lists are written as JSON."""
        if not rows:
            return

        self._try("table", lambda run: run.log({name: wandb_table(rows)}))

    def close(self, code: int) -> None:
        """Finish the run with the exit code of its cell; W&B gives up silently, which only the time taken shows."""
        begun, run = time.monotonic(), self._run
        self._try("finish", lambda run: run.finish(exit_code=code))
        self._run = None
        if run is not None and time.monotonic() - begun >= FINISH_SECONDS:
            place = Path(run.dir).parent
            logger.warning("W&B: not all was uploaded in %g s; upload it later: wandb sync %s", FINISH_SECONDS, place)

    def _try(self, verb: str, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a failure of W&B does not stop the cell
            logger.warning("W&B: %s failed (%s); the record is not affected", verb, first_line(error))


def summary_of(record: "Record") -> dict[str, Any]:
    """The figures of a record under names that W&B's panels group: ``tuned/accuracy``, ``latency_ratio/eager/1``.

    A latency is logged as the ratio dense / pruned with its interval, both times in milliseconds, and the note.
    Sizes are bytes on disk; a budget is its kind and its value. What a theory predicts about the whole network is
    logged beside what was measured: ``theory/<name>/predicted``.
    """
    stages = record.metrics.model_dump()
    summary = {f"{stage}/{name}": value for stage, values in stages.items() for name, value in (values or {}).items()}
    achieved = {f"achieved/{name}": value for name, value in record.budget.achieved.model_dump().items()}
    cost = {f"cost/{name}": value for name, value in record.cost.model_dump().items()}
    latency: dict[str, Any] = {}
    for row in record.latency or []:
        place = f"{row.runtime}/{row.batch}"
        latency |= {f"latency_ratio/{place}": row.ratio, f"latency_note/{place}": row.note}
        latency |= {f"latency_ratio_{end}/{place}": getattr(row, f"ratio_{end}") for end in ("low", "high")}
        latency |= {f"latency_ms/{stage}/{place}": getattr(row, f"{stage}_ms") for stage in ("dense", "pruned")}
    size = record.size.model_dump() if record.size else {}
    sizes = {f"size/{stage}/{name}": value for stage, own in size.items() for name, value in (own or {}).items()}
    kind, value = next(iter(record.budget.requested.items()), (None, None))
    asked = {"budget/kind": kind, "budget/value": value, "best/validation_accuracy": _best_validation(record)}
    theories = {
        f"theory/{row.theory}/{name}": getattr(row, name)
        for row in record.predictions or []
        if row.layer is None
        for name in ("predicted", "measured")
    }
    figures = {**summary, **achieved, **cost, **latency, **sizes, **theories, **asked}
    return {**figures, "status": record.status, "key": record.key}


def tables_of(record: "Record") -> dict[str, list[dict[str, Any]]]:
    """The tables of a record, a row per layer (``layers``), and one per theory and layer (``predictions``)."""
    predictions = [row.model_dump() for row in record.predictions or []]
    return {"layers": [layer.model_dump() for layer in record.layers], "predictions": predictions}


def _best_validation(record: "Record") -> float | None:
    """The best validation accuracy of the fine-tuning, a fraction; None where there was none."""
    epochs = (record.history or {}).get("finetune") or []
    return max(
        (row["validation_accuracy"] for row in epochs if row.get("validation_accuracy") is not None), default=None
    )


def tags_of(record_or_config: Mapping[str, Any]) -> list[str]:
    """What a run is filtered by in W&B: the data set, the network and the method of its cell."""
    names = ((record_or_config.get(part) or {}).get("name") for part in ("dataset", "model", "method"))
    return [str(name)[:64] for name in names if name]  # W&B refuses longer ones


@contextmanager
def tracking(
    section: Mapping[str, Any], name: str, group: str | None, config: Mapping[str, Any], job: str = JOB
) -> Iterator[Tracker]:
    """Track one cell, or the board of a sweep.

    Args:
        section: the configuration's ``track`` section: mode, project, entity, group, tags, notes, dir.
        name: the name of the run: data set, model, method, budget and seed.
        group: the sweep, unless the section names another group.
        config: the cell's configuration; what belongs to this machine or user is not sent.
        job: W&B's job type of the run.

    Yields:
        The tracker; it is closed with exit code 1 when the body raises, 0 otherwise.
    """
    mode = section.get("mode") or "offline"
    if mode not in MODES:
        raise BadInput(f"Unknown track.mode {mode!r}; expected one of {', '.join(MODES)}.")
    if mode == "disabled":
        yield Tracker()
        return
    folder = Path(section.get("dir") or "wandb").resolve()
    with inside(folder, offline=mode == "offline"):
        tracker = Tracker(_started(section, mode, folder, name, group, config, job))
        code = 1
        try:
            yield tracker
            code = 0
        finally:
            tracker.close(code)


@contextmanager
def inside(folder: Path, offline: bool) -> Iterator[None]:
    """W&B writes only in ``folder`` and sends no usage figures, except where the user's environment says otherwise."""
    wanted = {variable: str(folder / part) for variable, part in FOLDERS.items()}
    wanted["WANDB_ERROR_REPORTING"] = (
        "false"  # else W&B posts usage figures at exit, even offline: 10 s without network
    )
    if offline:  # online, the user's own settings (server, entity) are read from the usual place
        wanted["WANDB_CONFIG_DIR"] = str(folder / "config")
    added = {variable: path for variable, path in wanted.items() if variable not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for variable in added:
            os.environ.pop(variable, None)


def _started(
    section: Mapping[str, Any],
    mode: str,
    folder: Path,
    name: str,
    group: str | None,
    config: Mapping[str, Any],
    job: str,
) -> Any:
    options = options_of(section, folder, name)
    options |= {"group": section.get("group") or group, "config": recordable(config)}
    options |= {"job_type": job, "tags": list(dict.fromkeys([*options["tags"], *tags_of(config)]))}
    # An agent of `wandb sweep` has given the run an id already.
    options["id"] = os.environ.get("WANDB_RUN_ID") if SWEEP in os.environ and job == JOB else cell_key(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if mode == "online":
            try:
                checked_online()
                tried, options = options | {"resume": "allow"}, options | {"id": None}
                return start(tried, "online")  # W&B keeps the id of a start that failed
            except Exception as error:
                logger.warning(
                    "W&B: going on offline (%s); upload later with `wandb sync` or python -m benchmarks.track push",
                    first_line(error),
                )
        return start(options, "offline")
    except Exception as error:
        logger.warning("W&B: not tracking this cell (%s)", first_line(error))
        return None


def options_of(section: Mapping[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """What ``wandb.init`` is given of the configuration's ``track`` section."""
    return {
        "project": section.get("project") or "secateurs",
        "entity": section.get("entity"),
        "group": section.get("group"),
        "name": name,
        "tags": list(section.get("tags") or ()),
        "notes": section.get("notes"),
        "dir": str(folder),
        "reinit": "create_new",  # a run of its own, no shared state between the cells of one process
    }


def start(options: Mapping[str, Any], mode: Literal["online", "offline"]) -> Any:
    """A W&B run that waits neither long nor for input, and sends nothing about the machine."""
    import wandb

    settings = wandb.Settings(**QUIET, init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS)
    run = wandb.init(**options, mode=mode, settings=settings)
    run.define_metric("*", step_metric="step")
    return run


def checked_online() -> None:
    """Raise at once what W&B would find out after minutes, or ask for on the terminal.

    Raises:
        ConnectionError: there is no key, or the server cannot be reached.
    """
    import wandb

    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
    from wandb.sdk.lib.wbauth import read_netrc_auth

    identified = settings.api_key or os.environ.get("WANDB_API_KEY") or settings.identity_token_file
    if not (identified or read_netrc_auth(host=settings.base_url)):
        raise ConnectionError("no API key: run `wandb login` or set WANDB_API_KEY")
    _probe(settings.base_url)


def _probe(server: str) -> None:
    address = urlsplit(server)
    proxy = getproxies().get(address.scheme)
    target = urlsplit(proxy if proxy and "//" in proxy else server)
    host, port = target.hostname or "", target.port or (443 if target.scheme == "https" else 80)
    reached = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), PROBE_SECONDS).close()
            reached.set()
        except OSError:
            pass

    # In a thread, since looking up a name has no time limit of its own.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(PROBE_SECONDS)
    if not reached.is_set():
        raise ConnectionError(f"{host}:{port} cannot be reached")


def wandb_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A ``wandb.Table`` with one line per row; the columns are all names that occur. Lists are written as JSON."""
    import wandb

    columns: list[str | int] = list(dict.fromkeys(column for row in rows for column in row))
    lines: list[Iterable[Any]] = [[_cell(row.get(str(column))) for column in columns] for row in rows]
    return wandb.Table(columns=columns, data=lines, allow_mixed_types=True)


def _cell(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, (list, tuple, dict)) else value
