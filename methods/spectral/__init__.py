"""Spectral pruning (Suzuki et al. 2020) and its kin."""
