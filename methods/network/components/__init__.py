"""Nodes of layers that meet: what belongs to which, of which sorts they are, and what all of them share."""
