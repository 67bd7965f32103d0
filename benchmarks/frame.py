"""Records as a pandas table, and the choice of records by a query over it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.labels import label
from benchmarks.records import Record, flat
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


def frame(records: Sequence[Record]) -> "pd.DataFrame":
    """One row per record, in their order; see ``records.flat`` for the columns."""
    import pandas as pd

    return pd.DataFrame([flat(record) | {"label": label(record)} for record in records])


def select(records: Sequence[Record], where: str | None) -> list[Record]:
    """The records for which the pandas query ``where`` holds; all without one."""
    if where is None or not records:
        return list(records)
    table = frame(records)
    try:
        rows = table.query(where, engine="python").index
    except Exception as error:  # pandas raises whatever the expression does
        raise BadInput(
            f"Cannot apply the query {where!r} ({' '.join(str(error).split())}).\n"
            f"Expected a condition such as \"method == 'spectral' and seed < 3\" over: {', '.join(table.columns)}."
        ) from None
    return [records[row] for row in rows]
