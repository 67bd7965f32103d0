"""Small networks for tests; they live with the checks for methods of others, :mod:`secateurs.examples`."""

from secateurs.examples import NETWORKS, calibration, make

__all__ = ["NETWORKS", "calibration", "make"]
