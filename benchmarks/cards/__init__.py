"""A card for each method: what its preset and its class say, and which inputs it was seen to use."""
