"""The worker's side: ``boot`` starts it, ``serve`` answers calls, ``wire`` is what both sides speak."""
