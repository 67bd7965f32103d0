"""A cell's result on disk: its record, its identity, and the names that both are made of."""
