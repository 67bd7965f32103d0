"""What is measured of a network beside accuracy: counts, latency, size."""
