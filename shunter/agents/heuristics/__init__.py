"""The heuristics.

One file each, by kind: ``fifo``, ``lru`` and ``greedy``, and beside them ``cost_greedy``, which learned
policies start from, and ``random_choice``. What they share is in ``rules``; ``compiled`` has all of them in
compiled code.
"""
