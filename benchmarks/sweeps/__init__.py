"""From words to cells: the command line, Hydra, what is missing, who runs it."""
