"""Policies: heuristics and learned ones, which know nothing of whether time is simulated."""
