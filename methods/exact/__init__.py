"""Exact compression: units whose ReLU never changes sides, removed, folded or merged at an unchanged function."""
