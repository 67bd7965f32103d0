"""What a pruned network may cost, and how a size is found that meets it."""
