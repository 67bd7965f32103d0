"""A cell's result on disk: its record, its identity, and the class names that both use."""
