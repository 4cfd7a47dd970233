"""One policy on one request sequence: the loop (``runs``), what carries operations out, and the event log.

``backends`` are simulated durations or real engines, ``device_executor`` is the engines of one device,
``clocks`` are real or virtual, ``faults`` are engines that die. ``batched`` plays many sequences in compiled
code.
"""
