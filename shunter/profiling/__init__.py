"""Measurements of real engines: engines behind one boundary, sweeps, and the dataset they write.

This file stays empty of imports: worker interpreters load ``profiling.engines`` without shunter's
dependencies.
"""
