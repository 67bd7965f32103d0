"""What theories predict of the damage of pruning, beside what is measured."""
