"""The environment: scenarios, worlds, the rules, observations, the simulator and its Gymnasium faces."""

from shunter.registration import ENV_ID

__all__ = ["ENV_ID"]
