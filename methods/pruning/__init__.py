"""The steps of a pruning: nodes and edges, and what they check."""
