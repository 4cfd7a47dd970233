"""What operators look at: ``status`` answers, ``metrics``, the ``hub`` of events, and the live ``page``."""
