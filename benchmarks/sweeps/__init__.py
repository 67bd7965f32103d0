"""From a command line to cells: Hydra, planning, launching."""
