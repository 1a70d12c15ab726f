"""What the benchmarks share: cells and their processes, random models, the two sides, clocks and counts."""
