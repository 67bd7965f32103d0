"""A card for each method: what its preset and its class say, and what it was seen to look at."""
