"""The rules of scheduling, compiled, shared by simulation and real runs.

What is legal, what happens, what it costs.

``candidates`` and ``guard`` say what a device may do, ``dynamics`` does it, ``durations`` tells simulation
how long it takes, ``objectives`` are costs and rewards, ``faults`` is what a failed engine means.
"""
