"""Searches of parameters by Optuna: of heuristics, and of trainings."""
