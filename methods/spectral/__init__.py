"""Spectral pruning (Suzuki et al. 2020) and methods derived from it."""
