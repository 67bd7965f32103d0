"""Determinantal selection (DIVNET; Acharyya et al. 2020)."""
