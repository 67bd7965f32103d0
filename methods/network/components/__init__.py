"""Nodes of coupled layers: what belongs to each node, which sorts of nodes there are, and what all nodes share."""
