"""Learned policies.

``prior`` is what they start from, ``weights`` what is learned, ``file`` what is kept of a training.

``policy`` decides with numpy, ``compiled`` inside the simulator, ``onnx`` in other programs.
"""
