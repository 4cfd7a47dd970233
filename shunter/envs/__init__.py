"""The environment: importing this registers ``shunter/Scheduling-v0`` with Gymnasium."""

import gymnasium

ENV_ID = "shunter/Scheduling-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        ENV_ID,
        entry_point="shunter.envs.gym.scheduling:SchedulingEnv",
        vector_entry_point="shunter.envs.gym.vector:SchedulingVectorEnv",
    )

__all__ = ["ENV_ID"]
