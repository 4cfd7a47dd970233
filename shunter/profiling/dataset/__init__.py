"""The profile dataset: its ``schema``, its files (``table``, ``csv_file``, ``journal``), and looking at it.

Also published measurements in the same columns (``reference``), what was measured on (``fingerprint``), and
rows of a GPU that was held back (``throttled``).
"""
