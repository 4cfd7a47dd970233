"""Direct search: evolution strategies on common random numbers.

The simulator plays an episode in milliseconds and can give every candidate policy the very same requests. So
a policy's numbers are searched directly: pairs of mirrored perturbations play whole episodes, and what enters
the gradient is only the difference within a pair, on the same requests. The luck of arrivals, which is most
of what single trajectories differ by, cancels.

The linear weights of the kinds of candidates (run, load, evict, wait) are perturbed partly in common: what is
good news of one kind often is of all, and a direction that all share is found with fewer perturbations.

Source:
    Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning, 2017,
    https://arxiv.org/abs/1703.03864 (mirrored sampling, Adam on the estimated gradient). Kingma and Ba, Adam,
    2014, https://arxiv.org/abs/1412.6980.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.compiled import LINEAR
from shunter.agents.learned.inputs import INPUTS, KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import from_vector, to_vector, untrained_weights, width_of
from shunter.envs.sim.randomness import key_of
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError
from shunter.train.result import Curve
from shunter.train.search.checkpoint import SearchCheckpoint, read_search, write_search
from shunter.train.search.trials import Trials, episodes_of, score_of
from shunter.train.selection import all_drain
from shunter.train.settings import EvolutionSettings
from shunter.train.training import Training

__all__ = ["Search"]

Vector = NDArray[np.float64]

PRIOR_SIZE = len(BasePolicy._fields)
BETAS = 0.9, 0.99
LEAST_RATE = 0.2
"""What is left of the learning rate at the end."""

TIMED = 4
"""Generations after the first that are timed, to find how many there is time for."""

FEWEST = 20
"""Generations that a search has, however slow they are."""


def free(vector: Vector) -> Vector:
    """A policy's numbers as they are searched: those of the prior by their logarithms."""
    searched = vector.copy()
    searched[..., :PRIOR_SIZE] = np.log(np.maximum(searched[..., :PRIOR_SIZE], 1e-4))
    return searched


def bound(searched: Vector) -> Vector:
    """A policy's numbers from what is searched."""
    vector = searched.copy()
    vector[..., :PRIOR_SIZE] = np.exp(np.minimum(vector[..., :PRIOR_SIZE], 20.0))
    return vector


class Adam(NamedTuple):
    """State of Adam: running means of the gradient and of its square."""

    first: Vector
    second: Vector

    def step(self, gradient: Vector, number: int) -> Vector:
        """Updates both in place and gives the direction to go against; number counts from 1."""
        for mean, beta, value in zip(self, BETAS, (gradient, gradient**2), strict=True):
            mean *= beta
            mean += (1 - beta) * value
        first, second = (m / (1 - beta**number) for m, beta in zip(self, BETAS, strict=True))
        return np.asarray(first / (np.sqrt(second) + 1e-8))


class Search(Training):
    """A search under way, generation by generation; each has random numbers of its own.

    Args:
        worlds: Worlds to be good in.
        settings: Settings of the search.
        validation: Worlds that choose the numbers to keep; by default those to be good in.
        start: A policy to start from instead of the untrained one. Where the settings have no network, that
            of the start is kept as it is, and what is searched is the prior and the linear part.

    Raises:
        InputError: The start has a network of another width.
    """

    settings: EvolutionSettings

    def __init__(
        self,
        worlds: Sequence[World],
        settings: EvolutionSettings,
        *,
        validation: Sequence[World] | None = None,
        start: LearnedPolicy | None = None,
    ) -> None:
        begun = _start(start, settings, drains=all_drain(worlds))
        super().__init__(worlds, settings, validation=validation, start=start)
        self.width = width_of(begun.weights)
        vector = to_vector(begun.weights)
        size = len(vector) if settings.width else PRIOR_SIZE + LINEAR
        self.center, self.kept = free(vector[:size]), vector[size:]
        self.average = self.center.copy()
        self.adam = Adam(np.zeros_like(self.center), np.zeros_like(self.center))
        self.generation, self.generations = 0, settings.generations
        self._decisions = 0
        self.lanes = threads_of(settings)
        self.pool = ThreadPoolExecutor(self.lanes) if self.lanes > 1 else None
        self._last_s: list[float] = []
        self._latest: dict[str, float] = {}

    def close(self) -> None:
        """Ends the threads."""
        if self.pool is not None:
            self.pool.shutdown()

    @property
    def decisions(self) -> int:
        """Simulated for the search so far."""
        return self._decisions

    @property
    def share(self) -> float:
        """How much is done; nothing until it is known how much there is."""
        return self.generation / self.generations if self.generations else 0.0

    def segment(self, report: Callable[[], None] = lambda: None) -> None:
        """Generations until the next validation."""
        self.advance()
        while self.generation % self.settings.validate_every and not self.over:
            report()
            self.advance()

    def advance(self) -> None:
        """One generation."""
        settings, begun_s = self.settings, time.monotonic()
        rng = np.random.default_rng([settings.seed, self.generation])
        self.move(rng)
        self.average = settings.averaging * self.average + (1 - settings.averaging) * self.center
        if self.generation > 1 and len(self._last_s) < TIMED:  # the first one compiles
            self._last_s.append(time.monotonic() - begun_s)
            if len(self._last_s) == TIMED:
                self._plan()

    def move(self, rng: np.random.Generator) -> None:
        """Takes the centre a generation on: a step against the estimated gradient."""
        gradient = self.gradient(rng)
        self.generation += 1
        rate = self.settings.learning_rate * max(LEAST_RATE, 1.0 - self.share)
        step = rate * self.adam.step(gradient, self.generation)
        self.center = self.center - step
        norms = {"gradient_norm": gradient, "step_norm": step}
        self._latest |= {name: float(np.linalg.norm(vector)) for name, vector in norms.items()}
        self._latest |= {"learning_rate": rate, "generation": self.generation}

    def gradient(self, rng: np.random.Generator) -> Vector:
        """Estimated from pairs of mirrored perturbations."""
        noise = self.perturbations(rng, self.settings.pairs)
        step = self.settings.sigma * noise
        cost = self.log_costs(rng, np.concatenate([self.center + step, self.center - step]))
        gap = cost[: len(noise)] - cost[len(noise) :]
        self._latest |= {"mean_log_cost": float(cost.mean()), "pair_gap_std": float(gap.std())}
        return np.asarray((gap[:, None] * noise).mean(axis=0) / (gap.std() + 1e-12))

    def perturbations(self, rng: np.random.Generator, count: int) -> Vector:
        """(count, size) each standard normal; the linear weights of all kinds correlate by ``shared``."""
        noise, shared = rng.standard_normal((count, len(self.center))), self.settings.shared
        if shared > 0:
            of_kinds = noise[:, PRIOR_SIZE : PRIOR_SIZE + LINEAR].reshape(count, len(KINDS), INPUTS)
            common = rng.standard_normal((count, 1, INPUTS))
            of_kinds[:] = np.sqrt(shared) * common + np.sqrt(1.0 - shared) * of_kinds
        return noise

    def log_costs(self, rng: np.random.Generator, searched: Vector) -> Vector:
        """(policies,) mean over some worlds of the logarithm of what each policy costs there per request."""
        vectors = self.vectors(searched)
        settings, count = self.settings, min(self.settings.worlds, len(self.worlds))
        total = np.zeros(len(vectors))
        for w in rng.choice(len(self.worlds), count, replace=False).tolist():
            world, score = self.worlds[w], score_of(self.worlds[w])
            seeds = rng.integers(2**62, size=episodes_of(world, settings.episodes)).tolist()
            trials = Trials(
                world,
                [int(key_of(seed, w)) for seed in seeds],
                width=self.width,
                score=score,
                noise=settings.noise,
                lanes=self.lanes,
            )
            costs, decisions = trials.costs(vectors, self.pool)
            self._decisions += decisions
            total += np.log(costs.mean(axis=1)) / count
        return total

    def vectors(self, searched: Vector) -> Vector:
        """(policies, all numbers) of policies from those that are searched, (policies, size)."""
        kept = np.broadcast_to(self.kept, (len(searched), len(self.kept)))
        return np.concatenate([bound(searched), kept], axis=1)

    def policy(self, searched: Vector) -> LearnedPolicy:
        """The policy of some numbers, (size,)."""
        return LearnedPolicy("evolution", from_vector(self.vectors(searched[None])[0], self.width), {})

    def _plan(self, validation_s: float = 0.0) -> None:
        """Finds how many generations there is time for, once some have been timed."""
        if self.settings.generations == 0:
            each_s = float(np.median(self._last_s)) + validation_s / self.settings.validate_every
            left_s = 60 * self.settings.minutes - self.elapsed_s
            self.generations = max(FEWEST, self.generation + round(left_s / each_s))

    def candidate(self) -> LearnedPolicy:
        """The average of the latest numbers."""
        return self.policy(self.average)

    def validate(self) -> None:
        """Scores the average of the latest numbers; the time that the first one takes is planned with."""
        begun_s = time.monotonic()
        super().validate()
        if self.generation == self.settings.validate_every and len(self._last_s) == TIMED:
            self._plan(time.monotonic() - begun_s)  # the first one, before all generations, compiles

    def diagnostics(self) -> dict[str, float]:
        """Of the latest generation: what variants cost, how far mirrored ones differ, and what moved."""
        return {f"search/{name}": value for name, value in self._latest.items()}

    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint was written."""
        checkpoint = read_search(path, self.asked)
        arrays, state = checkpoint.arrays, checkpoint.state
        sizes = (self.center.size, self.center.size + self.kept.size, self.width)
        if (arrays["center"].size, arrays["best"].size, state["width"]) != sizes:
            raise BrokenFileError(path, "its vectors are of another size than this search's")
        self.center, self.average = arrays["center"], arrays["average"]
        self.kept = arrays["best"][len(self.center) :]
        self.adam = Adam(arrays["first"], arrays["second"])
        self.best = LearnedPolicy("evolution", from_vector(arrays["best"], self.width), {})
        self.curve = [Curve(*point) for point in state["curve"]]
        self.generation, self.generations = state["generation"], state["generations"]
        self._decisions, self.before_s = state["decisions"], state["elapsed_s"]

    def save(self, path: Path) -> None:
        """Writes what ``restore`` needs."""
        if self.best is None:
            raise RuntimeError("nothing was validated yet")
        arrays = {
            "center": self.center,
            "average": self.average,
            "first": self.adam.first,
            "second": self.adam.second,
            "best": to_vector(self.best.weights),
        }
        state: dict[str, Any] = {
            "settings": self.asked,
            "curve": [(p.steps, p.elapsed_s, p.ratio) for p in self.curve],
            "width": self.width,
            "generation": self.generation,
            "generations": self.generations,
            "decisions": self.decisions,
            "elapsed_s": self.elapsed_s,
        }
        write_search(SearchCheckpoint(arrays, state), path)

    def facts(self) -> dict[str, str]:
        """How many generations there were."""
        return {"generations": str(self.generation)}


def threads_of(settings: EvolutionSettings) -> int:
    """As many as asked for, or a worker's share: Ray sets ``OMP_NUM_THREADS`` to it; or one per processor."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    return settings.threads or (int(share) if share.isdigit() else 0) or os.cpu_count() or 1


def _start(given: LearnedPolicy | None, settings: EvolutionSettings, *, drains: bool) -> LearnedPolicy:
    """What a search begins with; a network begins with random layers and a last one that says nothing."""
    weights = untrained_weights(BasePolicy.of(drains=drains), settings.width)
    rng = np.random.default_rng(settings.seed)
    for layer in ("encode_1", "encode_2", "score_1"):
        if settings.width:
            shape = weights[f"{layer}.weight"].shape
            weights[f"{layer}.weight"] = rng.normal(0, shape[1] ** -0.5, shape).astype(np.float32)
    if given is None:
        return LearnedPolicy("evolution", weights, {})
    if settings.width and given.width not in (0, settings.width):
        raise InputError("--from", f"have a network of width {settings.width} or none", given.width)
    return LearnedPolicy("evolution", {**weights, **given.weights}, {})
