"""Requests.

``draw`` makes them from a scenario, ``traces`` reads recorded ones, ``fit`` makes a synthetic trace alike.
"""
