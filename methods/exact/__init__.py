"""Exact compression: remove, fold or merge units whose ReLU is always on or always off; the function stays."""
