"""Policies run on simulated and real engines by one loop, and what came of it.

``evaluation.evaluate`` compares policies; ``execution`` runs them, ``metrics`` are the figures of runs,
``fidelity`` is how far simulation is from reality, ``bounds`` what the best schedule would have cost,
``explain`` why a trained policy does as it does.
"""
