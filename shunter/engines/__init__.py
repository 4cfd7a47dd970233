"""Engines behind one boundary (``base``), each run by a worker process in an interpreter of its own.

Everything here but ``caller`` runs in workers and imports the standard library, numpy and the engine only:
a worker's interpreter runs it from its path without shunter's own dependencies (see ``worker/boot.py``). Of
it ``headers`` and ``weights``, which read checkpoints and add up what they weigh, serve the catalogue too.
``caller`` is our side: engines by name, of third parties too (``start_engine``), and the processes behind
them. A folder for each engine: ``llama_cpp`` with the loopback device, ``transformers``, ``vllm``, and
``fake``.
"""
