"""Measurements of a network besides accuracy: counts, latency, size, memory."""
