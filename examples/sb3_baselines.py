"""Stock PPO, A2C or DQN of Stable-Baselines3 on a scenario of the library, set beside a heuristic.

    python examples/sb3_baselines.py [PPO|A2C|DQN] [STEPS]

Needs ``pip install 'shunter[train]'``. None of them knows a mask: while it learns, an illegal action counts
as waiting, is counted in ``info["illegal_actions"]`` and costs nothing but the time; what it learned takes
the best legal one. ``sb3_contrib.MaskablePPO`` takes PPO's place without another change.
"""

import argparse

import numpy as np
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import VecNormalize

from shunter.agents.registry import make_policy
from shunter.envs.world.world import make_world
from shunter.eval.execution.runs import simulate
from shunter.eval.metrics.metrics import summarize
from shunter.train.ppo.vec_env import SchedulingVecEnv

ALGORITHMS = {
    "PPO": (PPO, {"n_steps": 32, "batch_size": 512}),
    "A2C": (A2C, {"n_steps": 32}),
    # A replay buffer of the default size would hold a million observations: many gigabytes.
    "DQN": (DQN, {"buffer_size": 20_000, "learning_starts": 1000, "train_freq": 8, "batch_size": 256}),
}


class SB3Policy:
    """What Stable-Baselines3 learned, as a policy that shunter runs anywhere: simulated or real."""

    oracle = False

    def __init__(self, name, model):
        self.name = name
        self.model = model

    def act(self, observation):
        """Chooses a candidate."""
        return int(self.act_batch({key: value[None] for key, value in observation.items()})[0])

    def act_batch(self, observations):
        """Chooses for a batch of observations."""
        policy = self.model.policy
        seen = policy.obs_to_tensor(self.model.get_vec_normalize_env().normalize_obs(observations))[0]
        if isinstance(self.model, DQN):
            scores = policy.q_net(seen)
        else:
            scores = policy.get_distribution(seen).distribution.logits
        return np.where(observations["action_mask"], scores.detach().numpy(), -np.inf).argmax(axis=1)


def main(name: str = "PPO", steps: int = 200_000) -> None:
    """Trains, then serves the same unseen requests as cost-greedy."""
    world = make_world("trivial-two-models")
    envs = SchedulingVecEnv(world, num_envs=64, seed=0)
    scaled = VecNormalize(envs, norm_obs_keys=["candidates", "context"], gamma=0.999)
    algorithm, options = ALGORITHMS[name]
    model = algorithm("MultiInputPolicy", scaled, gamma=0.999, device="cpu", seed=0, **options)
    model.learn(steps)
    illegal, decisions = (envs.batch.state.counts[key].sum() for key in ("illegal_actions", "decisions"))
    print(f"{name} chose illegally in {illegal} of {decisions} decisions of the episodes under way")
    for policy in (SB3Policy(name, model), make_policy("cost-greedy")):
        runs = [simulate(world, policy, seed) for seed in range(2_000_000, 2_000_010)]
        figures = summarize(runs)
        print(
            f"{policy.name}: mean response {figures['response_mean_s']:.2f} s, "
            f"{figures['unfinished']:.0f} requests unfinished"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=sorted(ALGORITHMS), default="PPO")
    parser.add_argument("steps", nargs="?", type=int, default=200_000)
    main(**vars(parser.parse_args()))
