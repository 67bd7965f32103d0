"""The common trainer: settings, the loop, scoring, and the dense networks that it makes once."""
