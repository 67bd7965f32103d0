"""Depth pruning: the units are whole residual blocks, which can be removed without changing any shape."""
