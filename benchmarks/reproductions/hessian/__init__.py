"""Pruning by curvature: OBS, CBS, Kronecker factors, flat minima."""
