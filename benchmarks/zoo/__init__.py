"""Small networks of many architectures, and what is asked of each: the table in docs/networks.md."""
