"""Benchmarks: `surgeline bench`."""
