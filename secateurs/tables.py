"""Records as a table, and cells run from a program."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import BadInput
from methods.progress import track

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record

LOG = logging.getLogger(__name__)
ELSEWHERE = ("paths", "track", "hydra")  # sections that belong to a machine or a user, not to a cell


def records(results: Path | str = "results") -> pd.DataFrame:
    """All records under a folder of results as a pandas table: one row per record, options as columns.

    Args:
        results: the folder with ``runs`` (of this machine) and ``cells`` (reviewed).

    Returns:
        A row per cell, sorted by data set, model, method and key. Columns are the record's identity, budget, metrics
        (accuracies and ``keep`` as fractions, MACs of one sample, times in seconds, memory in MB, sizes in bytes), and
        every option of the cell's configuration under its full name, for instance ``selection.theta``. Files that are
        not records are left out, each with a warning in the log.

    Raises:
        BadInput: there is no record in the folder.
    """
    import pandas as pd

    from benchmarks.records.schema import flat
    from benchmarks.records.store import Store
    from benchmarks.storage.console import printable
    from benchmarks.storage.paths import Paths

    class Shown(Store):
        def files(self) -> Iterator[tuple[bool, Path]]:
            return track(list(super().files()), "reading records")

    found, problems = Shown.of(Paths(results=Path(results))).load()
    for problem in problems:
        LOG.warning("left out: %s", printable(str(problem)))
    if not found:
        raise BadInput(
            f"no records in {results}; expected a folder with runs/ or cells/: "
            "type python run.py -m method=spectral,random, or give another folder"
        )
    rows = [flat(record) for record in found]
    return pd.DataFrame([row | dict(_options(each.config)) | row for row, each in zip(rows, found, strict=True)])


def _options(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        full = f"{above}{name}"
        if isinstance(value, Mapping):
            if full not in ELSEWHERE:
                yield from _options(value, f"{full}.")
        else:
            yield full, value


def run(words: Sequence[str]) -> list[Record]:
    """Run cells as ``python run.py -m`` does: finished ones are skipped, boards are rendered, progress is shown.

    Args:
        words: the arguments of ``python run.py -m``, for instance ``["method=spectral,dpp", "seed=0,1"]``.

    Returns:
        The records of these cells, in the order of the words; failed cells are records too, with their reason.

    Raises:
        BadInput: an unknown option or choice.
    """
    from benchmarks.sweeps import application
    from benchmarks.sweeps.run_command import parse
    from secateurs.presets import hydra_of_the_caller

    with hydra_of_the_caller(), _signals_kept():
        return application.run(parse(["-m", *words])).records


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the caller's handler of SIGTERM afterwards, whatever launchers have set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answer = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, answer)
