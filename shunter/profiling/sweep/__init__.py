"""Sweeps.

``plan`` says what to measure in which order, ``run`` measures it, ``budget`` does so within a time.
``measure`` does one group of units, ``cycle`` those of the preemption protocol.
"""
