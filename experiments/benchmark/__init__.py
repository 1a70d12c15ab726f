"""What the two benchmarks share: cells and their processes, random models, the two sides, clocks and counts."""
