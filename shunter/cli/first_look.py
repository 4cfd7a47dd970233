"""What ``shunter demo`` shows before it measures anything: the shipped policy beside what people run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.agents.learned.shipped import shipped_policy
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World, make_world
from shunter.eval.execution.batched import Batched, evaluate_batched
from shunter.report.words import decided_text
from shunter.train.verdict import TUNED
from shunter.uncertainty import paired_mean_change

SCENARIO = "unseen-pair"
"""Scenario of the library's split ``test``: its models and GPUs are in no training."""

SHIPPED = "shipped policy"
PEOPLE_RUN = {"fifo-swap": "fifo-swap, as llama-swap does", "lru-keepalive": "lru-keepalive, as Ollama does"}
"""Heuristics, and which program decides so."""


def first_look(seeds: Sequence[int]) -> list[str]:
    """Simulates the shipped policy and what people run on the same requests, in seconds.

    Args:
        seeds: Seeds of the workloads; nothing may have been tuned or trained on them.

    Returns:
        A heading that says what is shown and how to read it, then a line for each policy, the shipped one
        first.
    """
    world = make_world(SCENARIO, Path("published"))
    shipped = evaluate_batched(world, shipped_policy(), seeds)
    others = {TUNED: evaluate_batched(world, TUNED_COST_GREEDY, seeds)}
    for name, text in reversed(PEOPLE_RUN.items()):
        others[text] = evaluate_batched(world, make_policy(name), seeds)
    wide = max(map(len, (SHIPPED, *others)))
    rows = [f"  {SHIPPED:{wide}}  {_mean_text(shipped)}"]
    for name, other in others.items():
        rows.append(f"  {name:{wide}}  {_mean_text(other)}, shipped against it {_change(shipped, other)}")
    return [_heading(world, len(seeds)), *rows]


def _heading(world: World, sequences: int) -> str:
    scenario = world.scenario
    devices = " and ".join(device.text for device in scenario.devices)
    return (
        f"simulated on published performance: {scenario.name} ({len(scenario.models)} models on {devices}, "
        f"load {scenario.workload.load:g}), mean response over {sequences} request sequences that nothing "
        "was tuned or trained on; changes with paired 95 % intervals, negative = lower = better"
    )


def _mean_text(done: Batched) -> str:
    unfinished = int(done.unfinished.sum())
    return f"{unfinished} unfinished" if unfinished else f"{done.response_mean_s.mean():6.1f} s"


def _change(mine: Batched, other: Batched) -> str:
    found = paired_mean_change(mine.response_mean_s[None], other.response_mean_s[None])
    return decided_text({"change": found.value, "low": found.low, "high": found.high})
