"""Spectral pruning (Suzuki et al. 2020) and what its theory says."""
