"""What we compare: pruning methods as allocation + selection + compensation (+ schedule); never imports benchmarks."""
