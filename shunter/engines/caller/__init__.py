"""The caller's side of engines.

Finds one by name (``entries``) and calls it in a process of its own (``client``).
"""
