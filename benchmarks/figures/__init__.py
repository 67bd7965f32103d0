"""The style of all figures: one look per method, one house style, and the rules that figures must keep."""
