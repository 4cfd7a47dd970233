"""How far simulation is from reality.

Operation by operation and in the metrics, and calibrating it on real runs.
"""
