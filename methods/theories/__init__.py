"""Compare the damage that theories predict with the damage that is measured."""
