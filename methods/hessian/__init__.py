"""Pruners that use second-order information: OBD, OBS, CBS, Kronecker factors."""
