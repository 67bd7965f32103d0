"""Budgets: what a pruned network may cost, and the search for sizes that meet it."""
