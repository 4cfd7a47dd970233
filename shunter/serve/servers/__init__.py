"""Servers that run models for the gateway: how they start, are watched and end, and what they are.

``llama_server``, ``vllm_server`` and ``fake`` are the kinds, of which ``making`` picks one by an engine's
name; ``starting`` waits until one answers; ``processes`` are beneath all of them.
"""
