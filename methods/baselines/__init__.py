"""Controls, and what every paper compares with."""
