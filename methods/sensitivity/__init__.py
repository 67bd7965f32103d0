"""What pruning each layer alone does to the network, and allocations that spend a budget by it: OWL, SPDY, curves."""
