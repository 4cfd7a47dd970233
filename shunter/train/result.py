"""What a training gives, whatever its algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shunter.agents.learned.policy import LearnedPolicy


@dataclass(frozen=True)
class Curve:
    """One validation.

    Attributes:
        steps: Decisions simulated for the training so far.
        elapsed_s: Spent on them.
        ratio: Geometric mean over worlds of what is trained for over the best single heuristic's, on the same
            requests.
        diagnostics: How training itself went just before, by name: losses, KL divergence, entropy, explained
            variance and learning rate, or the search's own. Not kept in checkpoints.
    """

    steps: int
    elapsed_s: float
    ratio: float
    diagnostics: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class TrainResult:
    """A trained policy, and how it went.

    Attributes:
        policy: The checkpoint with the lowest validation ratio.
        curve: All validations, the untrained policy's first.
        baseline: Name of the heuristic that was best on the validation requests.
        interrupted: Whether training was cut short by Ctrl-C.
    """

    policy: LearnedPolicy
    curve: list[Curve]
    baseline: str
    interrupted: bool


OnProgress = Callable[[float, Curve], None]
"""Called with how much of a training is done, 0 to 1, and the latest validation."""
