"""The gateway: a policy in front of real model servers, for real clients.

``core`` decides and owns all state, without any input or output of its own; ``http`` is what clients see;
``servers`` are the processes that run models; ``gateway`` ties them together on one asyncio loop.
``boundary`` names what these ask of each other; ``serving`` is the whole as a function.
"""
