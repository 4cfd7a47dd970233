"""Training policies in simulation.

``train_and_save`` does all that ``shunter train`` does; in it ``algorithms.train_policy`` trains by any
algorithm, in the loop of ``training``: direct search (``search``, the default) or MaskablePPO (``ppo``,
which needs the extra ``train``). ``distill`` teaches one network what several policies decide; ``tune``
searches parameters. ``verdict`` says what learning added.
"""
