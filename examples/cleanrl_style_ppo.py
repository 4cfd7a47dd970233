"""PPO with action masks in one file, in the style of CleanRL: nothing but torch and Gymnasium's names.

    python examples/cleanrl_style_ppo.py [STEPS] [SCENARIO]

Needs torch (``pip install 'shunter[train]'``). Prints the mean response time of the episodes that ended since
the line before. ``shunter train`` learns more in less time: this is a place to begin with ideas of your own.
"""

import argparse

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import shunter  # noqa: F401 - registers the environments

ENVS, ROLLOUT, EPOCHS, BATCHES = 16, 64, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, REWARD_SCALE = 0.999, 0.95, 0.2, 0.01, 0.1


class Agent(nn.Module):
    """Logits of the actions and a value, from flat observations."""

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, actions))
        self.critic = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, 1))

    def policy(self, seen: torch.Tensor, legal: torch.Tensor) -> Categorical:
        """The distribution over legal actions."""
        return Categorical(logits=torch.where(legal, self.actor(seen), -1e9), validate_args=False)

    def value(self, seen: torch.Tensor) -> torch.Tensor:
        """What is expected from here on."""
        return self.critic(seen).squeeze(-1)


def advantages(rewards, values, over, last):
    """Generalised advantage estimates, (T, E); ``over`` is 1 where an episode ended in the step."""
    out, ahead = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        following = last if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + GAMMA * following * (1 - over[t]) - values[t]
        out[t] = ahead = delta + GAMMA * LAMBDA * (1 - over[t]) * ahead
    return out


def main(steps: int = 100_000, scenario: str = "trivial-two-models", seed: int = 0) -> float:
    """Trains; returns the mean response time, in seconds, of the last episodes that ended."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # networks so small are faster without help
    # A policy that waits forever is cut off; what it would have cost from there on is the critic's guess.
    envs = gymnasium.make_vec("shunter/SchedulingFlat-v0", ENVS, scenario=scenario, max_episode_steps=2000)
    features, actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    agent = Agent(features, actions)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3)
    seen, info = envs.reset(seed=seed)
    response_s, mean_s = [], float("nan")
    for _ in range(max(1, steps // (ENVS * ROLLOUT))):
        kept = []
        for _ in range(ROLLOUT):
            here, legal = torch.as_tensor(seen), torch.as_tensor(info["action_mask"]).bool()
            with torch.no_grad():
                chosen = agent.policy(here, legal)
                action, value = chosen.sample(), agent.value(here)
            seen, reward, terminated, truncated, info = envs.step(action.numpy())
            over, reward = terminated | truncated, reward * REWARD_SCALE
            if over.any():
                final, ended = info["final_info"], info["_final_info"]
                response_s += (final["response_s"] / np.maximum(final["served"], 1))[ended].tolist()
                with torch.no_grad():
                    beyond = agent.value(torch.as_tensor(info["final_obs"])).numpy()
                reward = np.where(truncated, reward + GAMMA * beyond, reward)
            row = (here, legal, action, chosen.log_prob(action), value)
            kept.append((*row, torch.as_tensor(reward).float(), torch.as_tensor(over).float()))
        columns = [torch.stack(column) for column in zip(*kept, strict=True)]
        with torch.no_grad():
            gain = advantages(columns[5], columns[4], columns[6], agent.value(torch.as_tensor(seen)))
        rows = [column.flatten(0, 1) for column in (*columns[:5], gain)]
        for _ in range(EPOCHS):
            for part in torch.randperm(ENVS * ROLLOUT).chunk(BATCHES):
                here, legal, action, before, value, better = (row[part] for row in rows)
                chosen = agent.policy(here, legal)
                ratio = (chosen.log_prob(action) - before).exp()
                scaled = (better - better.mean()) / (better.std() + 1e-8)
                gained = torch.min(ratio * scaled, ratio.clamp(1 - CLIP, 1 + CLIP) * scaled).mean()
                error = ((agent.value(here) - (value + better)) ** 2).mean()
                loss = 0.5 * error - gained - ENTROPY * chosen.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        if response_s:
            mean_s, response_s = float(np.mean(response_s)), []
            print(f"mean response {mean_s:.2f} s")
    envs.close()
    return mean_s


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="?", type=int, default=100_000)
    parser.add_argument("scenario", nargs="?", default="trivial-two-models")
    main(**vars(parser.parse_args()))
