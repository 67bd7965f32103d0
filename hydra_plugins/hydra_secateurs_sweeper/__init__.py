"""Hydra's plug-in point for sweepers; what it does is in benchmarks/sweeps."""
