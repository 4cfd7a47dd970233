"""How far policies are from the clairvoyant, on small committed instances.

For every instance the best schedule found and the lower bound; for every policy its mean response as a
multiple of both, as geometric means over instances: the true ratio lies between the two.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.form import Row, main, reported
from benchmarks.instances import INSTANCES, Instance
from shunter.agents.base import Policy
from shunter.agents.registry import HEURISTICS, STATE_POLICIES, make_policy
from shunter.envs.state.state import Requests
from shunter.envs.world.world import World
from shunter.eval.bounds.clairvoyant import Clairvoyant, solve
from shunter.eval.execution.backends import SimulatedBackend
from shunter.eval.execution.runs import run_policy

__all__ = ["response_s", "run"]

BEAM, NODES = 300, 200_000


def response_s(world: World, requests: Requests, policy: Policy) -> float:
    """Mean response of a policy on given requests, in seconds."""
    result = run_policy(
        world,
        requests,
        policy,
        seed=0,
        make_backend=lambda on_end: SimulatedBackend(world, requests, on_end),
        mode="simulated",
    )
    return float((result.requests.finish_s - result.requests.arrival_s).mean())


def found_row(instance: Instance, found: Clairvoyant) -> Row:
    """One instance's optimum, enclosed."""
    note = "optimal" if found.optimal else f"{found.nodes} states looked at"
    interval = (found.bound_s, found.best_s)
    return reported(
        f"{instance.name}: clairvoyant mean response", found.best_s, "s", interval=interval, note=note
    )


def policy_row(name: str, found: list[Clairvoyant]) -> Row:
    """One policy over all instances."""
    worlds = [instance.make() for instance in INSTANCES[: len(found)]]
    costs_s = [response_s(world, requests, make_policy(name)) for world, requests in worlds]
    ratios = np.array([best.times(cost_s) for best, cost_s in zip(found, costs_s, strict=True)])
    low, high = np.exp(np.log(ratios).mean(axis=0))
    note = f"interval: against the best found and the lower bound; most × {ratios[:, 0].max():.2f}"
    return reported(f"{name} × of clairvoyant", float(low), interval=(float(low), float(high)), note=note)


def run(quick: bool) -> list[Row]:
    """All instances, or half of them."""
    instances = INSTANCES[: len(INSTANCES) // 2] if quick else INSTANCES
    found = [
        solve(*instance.make(), beam=BEAM // 3 if quick else BEAM, max_nodes=NODES) for instance in instances
    ]
    rows = [found_row(instance, best) for instance, best in zip(instances, found, strict=True)]
    return rows + [policy_row(name, found) for name in (*HEURISTICS, *STATE_POLICIES)]


if __name__ == "__main__":
    sys.exit(main("clairvoyant", run, "Policies as multiples of the clairvoyant optimum."))
