"""Benchmarks: each measures cases in turn, several rounds a run, and gives rows; only ratios within a run count."""
