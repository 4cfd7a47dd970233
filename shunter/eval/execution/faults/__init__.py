"""Engines that die: on purpose (``chaos``), what is kept of it (``failures``) and as words (``failure_log``)."""
