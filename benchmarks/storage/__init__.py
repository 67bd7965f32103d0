"""Files, locks and the terminal: whole or not at all, one holder at a time, one console."""
