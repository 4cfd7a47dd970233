"""Policies run on simulated and real worlds by one loop, and what came of it."""
