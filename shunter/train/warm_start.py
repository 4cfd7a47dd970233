"""A warm start: in each world the heuristic that does best there is imitated, before anything is improved on.

Which heuristic is best depends on the world, and a network can tell worlds apart by their features; the
prior alone is one heuristic for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from torch import nn

from shunter.agents.base import Policy
from shunter.agents.learned import PRIOR
from shunter.agents.registry import TUNED, make_policy
from shunter.envs.scheduling import Observation
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.world import World
from shunter.eval.batched import evaluate_batched
from shunter.train.worlds_env import WorldsVecEnv

__all__ = ["best_heuristic", "imitate"]

LEAST_GAIN = 0.03
"""By how much a heuristic must be better than the prior to be imitated instead: a few seeds choose it."""

ROUND = 64
"""Decisions per environment between two fits."""

EPOCHS = 2
BATCH = 2048
LEARNING_RATE = 1e-3
SMOOTHING = 0.1
"""Of labels, so that what is imitated stays open to improvement."""


def best_heuristic(world: World) -> Policy:
    """The tuned heuristic of lowest mean response on the reference seeds; the prior if none is clearly better."""
    seeds = SEED_RANGES["reference"]

    def response_s(policy: Policy) -> float:
        mean = float(evaluate_batched(world, policy, seeds).response_mean_s.mean())
        return np.inf if np.isnan(mean) else mean

    scored = [(response_s(policy), policy) for policy in map(make_policy, TUNED)]
    best_s, best = min(scored, key=lambda one: one[0])
    return best if best_s < (1 - LEAST_GAIN) * response_s(PRIOR) else PRIOR


def imitate(
    model: MaskablePPO,
    venv: WorldsVecEnv,
    teachers: Sequence[Policy],
    decisions: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fits the scoring network to what each world's teacher would do.

    At first teachers decide, later the network, so that it learns from its own mistakes too.

    Args:
        model: Its policy is a ``CandidatePolicy``.
        venv: Its environment.
        teachers: One for each world.
        decisions: To learn from.
        on_progress: Called with the decisions so far.

    Source:
        Ross et al., A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning
        (DAgger), 2011, https://arxiv.org/abs/1011.0686.
    """
    network = model.policy.mlp_extractor
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    rng = np.random.default_rng(model.seed)
    seen, done = venv.reset(), 0
    while done < decisions:
        teaching = max(0.0, 1.0 - 2.0 * done / decisions)
        rows, labels = [], []
        for _ in range(ROUND):
            flat, wanted = _flat(seen), venv.shown_choices(teachers)
            rows.append(flat)
            labels.append(wanted)
            own = _sampled(network, flat, rng)
            taught = (wanted >= 0) & (rng.random(len(wanted)) < teaching)
            seen = venv.step(np.where(taught, wanted, own))[0]
        _fit(network, optimizer, torch.cat(rows), torch.from_numpy(np.concatenate(labels)))
        done += ROUND * venv.num_envs
        on_progress(min(done, decisions))


def _fit(
    network: nn.Module, optimizer: torch.optim.Optimizer, rows: torch.Tensor, labels: torch.Tensor
) -> None:
    known = labels >= 0
    rows, labels = rows[known], labels[known]
    for _ in range(EPOCHS):
        for part in torch.randperm(len(labels)).split(BATCH):
            loss = _loss(_logits(network, rows[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy with labels smoothed over what is legal."""
    logs = torch.log_softmax(logits, dim=-1)
    legal = torch.isfinite(logits)
    chosen = logs.gather(-1, labels[:, None]).squeeze(-1)
    mean = torch.where(legal, logs, 0.0).sum(-1) / legal.sum(-1)
    return -((1 - SMOOTHING) * chosen + SMOOTHING * mean).mean()


def _logits(network: nn.Module, flat: torch.Tensor) -> torch.Tensor:
    """(n, A), minus infinity for what is not legal."""
    legal = flat[:, : network.actions] > 0  # type: ignore[misc]
    scored: torch.Tensor = network.forward_actor(flat)  # type: ignore[operator]
    return scored.masked_fill(~legal, -torch.inf)


def _sampled(network: nn.Module, flat: torch.Tensor, rng: np.random.Generator) -> NDArray[np.int64]:
    with torch.no_grad():
        logits = _logits(network, flat).numpy()
    return np.asarray((logits + rng.gumbel(size=logits.shape)).argmax(axis=-1))


def _flat(seen: Observation) -> torch.Tensor:
    """Observations as the network takes them: in order of their keys."""
    parts = [np.asarray(seen[key], np.float32).reshape(len(seen[key]), -1) for key in sorted(seen)]
    return torch.from_numpy(np.concatenate(parts, axis=1))
