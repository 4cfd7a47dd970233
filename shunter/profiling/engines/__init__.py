"""Engines behind one boundary, and the worker process each real one runs in.

Everything in this folder imports the standard library, numpy and at most one engine, by relative imports
only: a worker interpreter runs it from its path without shunter's own dependencies (see ``boot.py``).
"""
