"""Files, locks and the terminal: atomic writes, one holder at a time, one console."""
