"""The profile dataset: its ``schema``, its files (``table``, ``csv_file``, ``journal``), and looking at it.

Also published measurements in the same columns (``reference``) and what was measured on (``fingerprint``).
"""
