"""Reading data sets and splitting them."""
