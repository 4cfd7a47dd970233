"""The simulator.

Environments from one decision to the next, one (``simulation``) or many (``kernel``, ``batch``).

Also how this package compiles functions (``compiled``) and draws random numbers (``randomness``).
"""
