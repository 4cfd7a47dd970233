"""The environment's Gymnasium faces, single and vectorised, its checker and its rendering as text."""
