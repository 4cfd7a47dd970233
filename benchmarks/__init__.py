"""Benchmarks: what the project claims of itself, measured. Run one with ``python -m benchmarks.NAME``."""
