"""The command line: one thin module per subcommand, found by ``main``; what they share is in ``options``.

``profiles`` measure, ``performance`` predicts, ``policies`` are made there and ``evaluations`` run them.
"""
