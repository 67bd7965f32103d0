"""What we compare: pruning methods as allocation + selection + compensation (+ schedule). Never imports ``benchmarks``."""
