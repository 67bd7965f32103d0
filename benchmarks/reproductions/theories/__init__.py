"""What theories of pruning predict, beside what happens."""
