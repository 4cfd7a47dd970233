"""Engines that die: on purpose (``chaos``), what is kept (``failures``), and as words (``failure_log``)."""
