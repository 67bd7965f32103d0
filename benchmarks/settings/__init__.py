"""Checks of a configuration before any work: types, ranges, and whether a part takes its options."""
