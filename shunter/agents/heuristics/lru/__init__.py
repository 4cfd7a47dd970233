"""Rules that say which resident makes room: the least recently used, or the largest."""
