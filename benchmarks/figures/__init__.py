"""How everything that is drawn looks: one look per method, one house style for figures, and the rules they keep."""
