"""Learned policies.

``base_policy`` is what they start from (``prior`` in policy files), ``weights`` what is learned, ``file``
what is kept of a training.

``policy`` decides with numpy, ``compiled`` inside the simulator, ``onnx`` in other programs.
"""
