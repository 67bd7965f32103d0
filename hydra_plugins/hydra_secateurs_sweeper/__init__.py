"""The plug-in through which Hydra finds the sweeper; the implementation is in benchmarks/sweeps."""
