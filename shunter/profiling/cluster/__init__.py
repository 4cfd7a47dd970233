"""A sweep over a Ray cluster.

``sweep`` drives it, ``kind`` is one type of hardware, ``worker`` is the node's side.
"""
