"""What there is during an episode, as arrays for compiled code.

Fixed ``tables``, changing ``state``, and queues.
"""
