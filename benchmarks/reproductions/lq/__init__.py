"""Sparse-lq pruning (Yang et al. 2022) and the PQ index (Diao et al. 2023)."""
