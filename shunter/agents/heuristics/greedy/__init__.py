"""Rules that take what looks best now, by length, by pressure or by what starting costs."""
