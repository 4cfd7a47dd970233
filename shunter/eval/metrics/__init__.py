"""Figures of runs and their uncertainty: ``metrics`` defines them, ``statistics`` has the intervals."""
