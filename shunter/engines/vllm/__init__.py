"""vLLM, one engine per resident model, in this process or in one of its own.

``start`` sets its environment up.
"""
