"""The steps of one cell: data, dense network, pruning, fine-tuning, measuring."""
