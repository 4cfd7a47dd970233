"""A compiled scenario.

A performance model asked once for every cell (``tabulation``), as tables (``World``).
"""
