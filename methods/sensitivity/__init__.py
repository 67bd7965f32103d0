"""Measure what pruning each layer alone does, and allocate budgets accordingly: OWL, SPDY, curves."""
