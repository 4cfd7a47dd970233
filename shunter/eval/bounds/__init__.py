"""The clairvoyant.

What the best schedule costs that knows all arrivals and lengths beforehand, and lower bounds.
"""
