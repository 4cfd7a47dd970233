"""Direct search of a policy's numbers.

``evolution`` is the search, ``trials`` what it costs to be such a policy.
"""
