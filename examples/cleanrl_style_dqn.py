"""Double DQN with action masks in one file, in the style of CleanRL: nothing but torch and Gymnasium's names.

    python examples/cleanrl_style_dqn.py [STEPS] [SCENARIO]

Needs torch (``pip install 'shunter[train]'``). Prints the mean response time of the episodes that ended since
the line before.
"""

import argparse

import gymnasium
import numpy as np
import torch
from torch import nn

import shunter  # noqa: F401 - registers the environments

ENVS, BUFFER, BATCH, LEARNING_STARTS, EVERY, TARGET_EVERY, REPORT_EVERY = 16, 50_000, 256, 1000, 2, 200, 500
GAMMA, REWARD_SCALE = 0.99, 0.1


class Replay:
    """The last transitions."""

    def __init__(self, features: int, size: int) -> None:
        self.seen, self.then = (np.zeros((size, features), np.float32) for _ in range(2))
        self.action, self.reward = np.zeros(size, np.int64), np.zeros(size, np.float32)
        self.terminated, self.size, self.count = np.zeros(size, np.float32), size, 0

    def add(self, *rows):
        """Adds transitions; the oldest make room."""
        at = (self.count + np.arange(len(rows[0]))) % self.size
        columns = (self.seen, self.action, self.reward, self.then, self.terminated)
        for column, values in zip(columns, rows, strict=True):
            column[at] = values
        self.count += len(at)

    def sample(self, rng):
        """A batch of them as tensors."""
        at = rng.integers(min(self.count, self.size), size=BATCH)
        columns = (self.seen, self.action, self.reward, self.then, self.terminated)
        return (torch.as_tensor(column[at]) for column in columns)


def masked(scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Scores of legal actions; flat observations end with the mask and the share of requests left."""
    actions = scores.shape[1]
    return torch.where(seen[:, -1 - actions : -1] > 0, scores, -1e9)


def main(steps: int = 100_000, scenario: str = "trivial-two-models", seed: int = 0) -> float:
    """Trains; returns the mean response time, in seconds, of the last episodes that ended."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # networks so small are faster without help
    rng = np.random.default_rng(seed)
    envs = gymnasium.make_vec("shunter/SchedulingFlat-v0", ENVS, scenario=scenario, max_episode_steps=2000)
    features, actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    online, target = (
        nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, actions)) for _ in range(2)
    )
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=5e-4)
    replay = Replay(features, BUFFER)
    seen, info = envs.reset(seed=seed)
    response_s, mean_s = [], float("nan")
    for number in range(max(1, steps // ENVS)):
        explore = max(0.05, 1 - 2 * number * ENVS / steps)
        with torch.no_grad():
            best = masked(online(torch.as_tensor(seen)), torch.as_tensor(seen)).argmax(1).numpy()
        anything = (rng.random((ENVS, actions)) * info["action_mask"]).argmax(1)
        action = np.where(rng.random(ENVS) < explore, anything, best)
        then, reward, terminated, truncated, info = envs.step(action)
        following, over = then, terminated | truncated
        if over.any():  # what is stored is the last observation of the episode, not the next one's first
            following = np.where(over[:, None], info["final_obs"], then)
            final = info["final_info"]
            response_s += (final["response_s"] / np.maximum(final["served"], 1))[over].tolist()
        replay.add(seen, action, reward * REWARD_SCALE, following, terminated)
        seen = then
        if number * ENVS >= min(LEARNING_STARTS, steps // 2) and number % EVERY == 0:
            here, chosen, gained, there, ended = replay.sample(rng)
            with torch.no_grad():
                best_there = masked(online(there), there).argmax(1, keepdim=True)
                value = gained + GAMMA * (1 - ended) * target(there).gather(1, best_there)[:, 0]
            loss = nn.functional.smooth_l1_loss(online(here).gather(1, chosen[:, None])[:, 0], value)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if number % TARGET_EVERY == 0:
            target.load_state_dict(online.state_dict())
        if response_s and (number % REPORT_EVERY == 0 or number == steps // ENVS - 1):
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
