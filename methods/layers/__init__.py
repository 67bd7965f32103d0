"""What a pruning method sees of a layer."""
