"""Selections of nodes (neurons, channels, heads) that pruning papers compare with."""
