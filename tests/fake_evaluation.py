"""An evaluation of the small world: simulated, and real on fake engines with virtual clocks."""

from __future__ import annotations

from dataclasses import dataclass

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.runs import simulate
from shunter.eval.fidelity.replay import replay_predicted
from tests.fake_executor import TableDurations, execute

DEFAULT_POLICIES = ("fifo-swap", "cost-greedy", "lru-keepalive")
SEEDS = (0, 1)


@dataclass(frozen=True)
class Slower(TableDurations):
    """Decodes take a tenth longer than was predicted."""

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        return 1.1 * super().decode_step_s(model, gpu_layers, batch, context_tokens)


def evaluate_fake(world: World, seeds: tuple[int, ...] = SEEDS) -> Evaluation:
    """What ``evaluate`` does, on fake engines with virtual clocks."""
    result = Evaluation(world, list(DEFAULT_POLICIES), list(seeds))
    for name in DEFAULT_POLICIES:
        policy = make_policy(name)
        result.simulated[name] = [simulate(world, policy, seed) for seed in seeds]
        result.real[name] = [execute(world, policy, seed, Slower) for seed in seeds]
        result.replays[name] = [
            replay_predicted(world, world.draw(run.seed), run.log.frame()) for run in result.real[name]
        ]
    return result
