"""How long a trained policy takes to decide, on one core of a process that has neither torch nor SB3.

The policy is an untrained network of the default width: speed does not depend on the weights. It decides
for episodes of its own, one observation at a time; what is timed is ``act`` alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Row, at_most, main, reported
from benchmarks.sim_worlds import synthetic_world
from shunter.agents.base import Policy
from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import World, make_world
from shunter.train.settings import DistillSettings

BAR_MS = 1.0
WORLDS: dict[str, Callable[[], World]] = {
    "6 models on 2 devices": lambda: synthetic_world(6, 2, rate_per_s=0.5),
    "40 models on 8 devices": lambda: make_world("eight-gpu-forty-models"),
}
DECISIONS, WARM_UP = 4000, 200

TIMED = """
import importlib.abc, json, os, sys
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "stable_baselines3", "sb3_contrib"):
            raise ModuleNotFoundError(name)  # as if it were not installed
sys.meta_path.insert(0, Nothing())
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from benchmarks.decision_time import WORLDS, decision_times_ms
from shunter.agents.registry import make_policy
times = decision_times_ms(WORLDS[sys.argv[1]](), make_policy(sys.argv[2]), int(sys.argv[3]))
print(json.dumps(times.tolist()))
"""


def decision_times_ms(world: World, policy: Policy, decisions: int) -> NDArray[np.float64]:
    """(decisions,) milliseconds of each decision of a policy that plays an episode."""
    env = SchedulingEnv(world=world)
    seen, _ = env.reset(seed=0)
    times: list[float] = []
    while len(times) < WARM_UP + decisions:
        begun_ns = time.perf_counter_ns()
        action = policy.act(seen)
        times.append(1e-6 * (time.perf_counter_ns() - begun_ns))
        seen, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            seen, _ = env.reset()
    return np.array(times[WARM_UP:])


def write_untrained(path: Path) -> None:
    """Writes a policy file of the width that a distillation gives by default."""
    LearnedPolicy("untrained", untrained_weights(BasePolicy(), DistillSettings().width), {}).save(path)


def row(where: str, policy: str, decisions: int) -> Row:
    """One policy in one world: the median over decisions, and where 95 % of them lie."""
    arguments = [sys.executable, "-c", TIMED, where, policy, str(decisions)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    environment = {**os.environ, **one_thread}
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    times = np.array(json.loads(done.stdout))
    low, high = np.quantile(times, [0.025, 0.975])
    name = "trained network" if Path(policy).exists() else policy
    note = f"{len(times)} decisions, interval holds 95 % of them, p99.9 {np.quantile(times, 0.999):.3g} ms"
    return reported(
        f"time of a decision, {name}, {where}",
        float(np.median(times)),
        "ms",
        interval=(float(low), float(high)),
        note=note,
    )


def run(quick: bool) -> list[Row]:
    """Times the network and, for comparison, a heuristic."""
    decisions = DECISIONS // 10 if quick else DECISIONS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.safetensors"
        write_untrained(path)
        rows = [at_most(row(where, str(path), decisions), BAR_MS) for where in WORLDS]
    return rows + [row(where, "cost-greedy", decisions) for where in WORLDS]


if __name__ == "__main__":
    raise SystemExit(main("decision_time", run, __doc__ or ""))
