"""A server without a model, whose times and answers are known beforehand.

``server`` starts it as a process (``python -m shunter.serve.servers.fake``); ``app`` is its HTTP side,
``engine`` its slots and times, ``answers`` what it says.
"""
