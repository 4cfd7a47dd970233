"""The public fake: an engine without a model, whose durations are formulas and whose tokens are a hash."""
