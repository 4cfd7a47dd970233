"""The heuristics.

One file each, what they share (``rules``), and all of them in compiled code (``compiled``).
"""
