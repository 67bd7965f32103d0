"""All networks of the zoo, by their names."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.zoo import configured, convolutions, divided, perceptrons, sequences
from benchmarks.zoo.specimen import Specimen

EVERY = (
    *perceptrons.SPECIMENS,
    *convolutions.SPECIMENS,
    *divided.SPECIMENS,
    *sequences.SPECIMENS,
    *configured.SPECIMENS,
)


def present() -> list[Specimen]:
    """Those that can be built here, in the order of the table."""
    return [each for each in EVERY if not each.needs or find_spec(each.needs)]
