"""Benchmarks: each prints its table, and the command that gives it stands in docs/benchmarks.md."""
