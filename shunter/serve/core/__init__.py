"""What decides, without any input or output: every event is a method, told the time, that returns effects.

``core`` owns all state; ``chooser`` asks the policy; ``lanes`` are what runs on a device, ``blocks`` what
keeps a model from being loaded for a while, ``wishes`` what operators asked for; ``learning`` follows what
loads really take, ``patience`` says which servers are stuck; ``effects`` are what is to be done outside.
"""
