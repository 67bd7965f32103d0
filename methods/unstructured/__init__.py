"""Selections of edges (single weights) that pruning papers compare with."""
