"""Measurements of real engines: sweeps over checkpoints, the dataset they write, and the paper's protocol.

``profile`` does all that ``shunter profile`` does; in it ``sweep`` plans and runs, ``cluster`` shares a
sweep among machines, ``dataset`` holds the rows, ``meters`` the conditions that they were measured under,
``checkpoints`` makes models with random weights, and ``preemption`` plans and reports a sweep that repeats
the seed paper's measurement. ``measurements`` reads what other tools measured.
``health`` says what works on this machine.
"""
