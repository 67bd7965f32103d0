"""Low rank: layers as products of two smaller ones, by singular values."""
