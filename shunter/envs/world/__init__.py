"""A compiled scenario.

A performance model asked once for every configuration (``tabulation``), as tables (``World``).
"""
