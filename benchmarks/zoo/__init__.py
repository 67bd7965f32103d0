"""Small networks of many architectures, and the checks of each for the table in docs/networks.md."""
