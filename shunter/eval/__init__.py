"""Policies run on simulated and real engines by one loop, and what came of it.

``evaluate_and_save`` does all that ``shunter eval`` does; in it ``evaluation.evaluate`` compares policies,
``saved`` keeps what came of it; ``execution`` runs them, ``metrics`` are the figures of runs,
``fidelity`` is how far simulation is from reality, ``bounds`` what the best schedule would have cost,
``explain`` why a trained policy does as it does.
"""
