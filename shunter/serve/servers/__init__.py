"""Processes that run models for the gateway: how they start, are watched and end, and what they are.

``processes`` starts and ends any; ``starting`` waits until one answers; ``llama_server``, ``vllm_server`` and
``fake`` are the kinds, of which ``making`` picks one by an engine's name; ``leftovers`` ends what a gateway
that was killed left behind.
"""
