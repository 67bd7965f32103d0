"""Determinantal selection (DIVNET, Mariet & Sra 2016; Acharyya et al. 2020)."""
