"""How long a rare model waits beside a busy one when only one fits: the core on a virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from benchmarks.form import Row, at_most, reported
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Dispatch, Job, Start

__all__ = ["longest_wait", "starvation_rows", "two_models"]

BUSY_S, RARE_S = 2.5, 120.0
TICK_S = 0.5
BUSY, RARE = 0, 1
PROMPT_TOKENS, DECODE_TOKENS = 200, 100
GUARD_S = 30.0


def two_models(guard_s: float = GUARD_S) -> World:
    """Two models of which one fits."""
    model = {"catalog": "Qwen2.5-14B", "quantization": "Q4_K_M"}
    return make_world(
        Scenario.parse(
            {
                "name": "two",
                "engine": "llama-cpp",
                "models": [{"name": "busy", **model}, {"name": "rare", **model}],
                "devices": [{"name": "gpu", "gpu": "RTX 4070 Ti"}],
                "workload": {"rate_per_s": 1 / BUSY_S + 1 / RARE_S},
                "limits": {"max_batch": 4, "preemption": "drain", "guard_s": guard_s},
            }
        )
    )


@dataclass
class _Play:
    """The core, and servers that take as long as its world says.

    Attributes:
        core: Decides.
        events: What will happen: time, order, kind and object.
        waits: Of rare requests, seconds until they were sent.
        drains: Of requests of the busy model, seconds that they ran.
        loads: Seconds of loads.
    """

    core: Core
    events: list[tuple[int, int, str, Any]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    drains: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    order: count[int] = field(default_factory=count)

    def later(self, at_ns: int, kind: str, about: Any) -> None:
        heapq.heappush(self.events, (at_ns, next(self.order), kind, about))

    def answer_s(self, batch: int) -> float:
        """How long a server has a request that runs among so many."""
        tables = self.core.world.tables
        step_s = float(tables.step_s[0, BUSY, 0, batch - 1].max())
        return DECODE_TOKENS * step_s

    def obey(self, now_ns: int) -> None:
        for effect in self.core.take():
            if isinstance(effect, Dispatch):
                job = self.core.jobs[effect.id]
                if job.model == RARE:
                    self.waits.append((now_ns - job.arrival_ns) * 1e-9)
                seconds = self.answer_s(max(1, self.core.running(job.model)))
                self.drains.append(seconds)
                self.later(now_ns + round(seconds * 1e9), "finish", job)
            elif isinstance(effect, Start):
                self.loads.append(effect.expected_s)
                self.later(now_ns + round(effect.expected_s * 1e9), "ended", effect.device)

    def happen(self, now_ns: int, kind: str, about: Any) -> None:
        core = self.core
        if kind == "arrive":
            if core.queued(about) < core.max_queue:
                core.arrive(now_ns, about, PROMPT_TOKENS)
        elif kind == "finish":
            job: Job = about
            core.finished(now_ns, job, DECODE_TOKENS)
        elif kind == "ended":
            core.ended(now_ns, about)
        else:
            core.tick(now_ns)
        self.obey(now_ns)


def longest_wait(world: World, policy: str, horizon_s: float) -> tuple[float, float, int, _Play]:
    """The rare model's longest wait and the bound on it, in seconds; how often it came; and the play."""
    play = _Play(Core(world, make_policy(policy), max_queue=10_000))
    for model, every_s in ((BUSY, BUSY_S), (RARE, RARE_S)):
        for n in range(1, int(horizon_s / every_s) + 1):
            play.later(round(n * every_s * 1e9), "arrive", model)
    for n in range(1, int((horizon_s + RARE_S) / TICK_S)):
        play.later(round(n * TICK_S * 1e9), "tick", None)
    play.core.begin(0)
    play.obey(0)
    while play.events:
        at_ns, _, kind, about = heapq.heappop(play.events)
        play.happen(at_ns, kind, about)
    now_s = horizon_s + RARE_S
    waiting = [now_s - job.arrival_ns * 1e-9 for job in play.core.jobs.values() if job.model == RARE]
    bound_s = world.guard_s + max(play.drains) + max(play.loads) + TICK_S
    return max([*play.waits, *waiting], default=0.0), bound_s, len(play.waits), play


def starvation_rows(policies: Sequence[tuple[str, str]], *, horizon_s: float) -> list[Row]:
    """Whether the rare model waits no longer than guard, one drain and one load.

    Args:
        policies: What people call each, and what ``make_policy`` takes.
        horizon_s: How long requests come, on the virtual clock.
    """
    rows, world = [], two_models()
    for name, text in policies:
        wait_s, bound_s, times, play = longest_wait(world, text, horizon_s)
        note = (
            f"{times} times in {horizon_s / 3600:.2g} h; guard {world.guard_s:g} s, "
            f"drain {max(play.drains):.1f} s, load {max(play.loads):.1f} s, tick {TICK_S:g} s; "
            f"{len(play.loads)} loads"
        )
        rows.append(
            at_most(reported(f"longest wait of a rare model, {name}", wait_s, "s", note=note), bound_s)
        )
    return rows
