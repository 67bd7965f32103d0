"""Depth: whole residual blocks, which a network can do without at unchanged shapes, as units."""
