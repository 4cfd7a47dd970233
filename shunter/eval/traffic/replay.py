"""Simulation against what happened: a gateway's recorded requests, served anew in the simulator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.agents.base import Policy, is_oracle
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError, ShunterError, UnknownNameError
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.traffic.record import Record, good_loads, requests_of
from shunter.eval.traffic.shadow import Shadowed, shadowed
from shunter.eval.traffic.world import MeasuredLoad, SequencesWorld, measured_loads
from shunter.uncertainty import Interval, bootstrap, ratio_of_sums

__all__ = ["Replayed", "check_answers", "ran_policy", "replay_record"]

QUANTILES = (0.5, 0.9, 0.99)
LEAD_S = 1.0
"""Simulated seconds before the first request of a run."""

_BLOCK, _MOST_BLOCKS = 10, 30
"""Requests of a block of time, on average and at least, and most blocks: what is resampled for intervals."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Replayed:
    """Recorded requests as they were served, and as policies serve them in the simulator.

    Attributes:
        policy: Name of the policy that ran.
        requests: A row per request that was answered in reality and in every simulation: ``model``,
            ``at_s`` (since the first one, without the time between runs), ``block`` (of time), ``real_s``
            (response), and in ``simulated:NAME`` the same under each policy.
        others: Names of the other policies, in the order given.
        left_out: Requests that were cancelled in mid-answer, or not served in a simulation: they are played,
            and not compared.
        real_loads: Loads in the event log; None: there is none.
        loads: Simulated loads by policy.
        measured: What loads took, which the simulation takes over.
        shadows: What shadow policies would have decided otherwise in reality.
    """

    policy: str
    requests: pd.DataFrame
    others: tuple[str, ...]
    left_out: int
    real_loads: int | None
    loads: dict[str, int]
    measured: tuple[MeasuredLoad, ...]
    shadows: tuple[Shadowed, ...] = ()

    @property
    def span_s(self) -> float:
        """Seconds of traffic that were compared."""
        return float(np.ptp(self.requests["at_s"]))

    def simulated_s(self, policy: str) -> Array:
        """(requests,) responses under a policy."""
        return self.requests[f"simulated:{policy}"].to_numpy(np.float64)

    @property
    def error(self) -> Interval:
        """Simulated mean response over the real one, less 1."""
        return self._change(self.simulated_s(self.policy), self.requests["real_s"].to_numpy(np.float64))

    def change(self, policy: str) -> Interval:
        """Another policy's mean response over that of the one that ran, less 1, both simulated."""
        return self._change(self.simulated_s(policy), self.simulated_s(self.policy))

    def _change(self, mine: Array, theirs: Array) -> Interval:
        """A ratio of means less 1, with an interval over blocks of time."""
        sums = pd.DataFrame({"mine": mine, "theirs": theirs}).groupby(self.requests["block"].to_numpy()).sum()
        if np.array_equal(mine, theirs):
            return Interval(0.0, 0.0, 0.0)
        return bootstrap(sums.to_numpy(np.float64), lambda drawn: ratio_of_sums(drawn) - 1.0)

    def figures(self) -> pd.DataFrame:
        """Simulated and real seconds of the policy that ran: the mean, quantiles, and by model.

        Returns:
            By row its name, ``requests``, ``simulated_s``, ``real_s``.
        """
        simulated, real = self.simulated_s(self.policy), self.requests["real_s"].to_numpy(np.float64)
        rows = [("mean response", len(real), float(simulated.mean()), float(real.mean()))]
        for q in QUANTILES:
            ends = (float(np.quantile(values, q)) for values in (simulated, real))
            rows.append((f"p{q * 100:.0f}", len(real), next(ends), next(ends)))
        for name, of in self.requests.groupby("model"):
            ends = (float(of[column].mean()) for column in (f"simulated:{self.policy}", "real_s"))
            rows.append((f"mean of {name}", len(of), next(ends), next(ends)))
        table = pd.DataFrame(rows, columns=["figure", "requests", "simulated_s", "real_s"])
        return table.set_index("figure")

    def to_dict(self) -> dict[str, Any]:
        """Everything that is shown, as plain data."""
        return {
            "policy": self.policy,
            "requests": len(self.requests),
            "left_out": self.left_out,
            "span_s": self.span_s,
            "error": self.error._asdict(),
            "figures": self.figures().to_dict("index"),
            "loads": {"real": self.real_loads, "simulated": self.loads[self.policy]},
            "measured_loads": [one._asdict() for one in self.measured],
            "shadows": [one._asdict() for one in self.shadows],
            "would_have_been": {
                name: {
                    "response_mean_s": float(self.simulated_s(name).mean()),
                    "change": self.change(name)._asdict(),
                    "loads": self.loads[name],
                }
                for name in self.others
            },
        }


def ran_policy(record: Record, given: str | None = None, *, option: str = "--ran") -> Policy:
    """The policy that ran, by what the record calls it unless it is given.

    Args:
        record: What happened.
        given: Name, policy file or URI.
        option: The option that gives it.

    Raises:
        InputError: The record does not say, or names one that is not there.
    """
    if given is not None:
        return make_policy(given)
    if record.policy is None:
        rule = "be given (a name or policy file): the record does not say which policy ran"
        raise InputError(option, rule, None)
    registered = re.fullmatch(r"([^/:]+):(\d+)", record.policy)
    try:
        return make_policy("models:/{}/{}".format(*registered.groups()) if registered else record.policy)
    except (UnknownNameError, InputError):
        rule = "be the policy that ran (a file or models:/ URI): the record knows it by name only"
        raise InputError(option, rule, record.policy) from None


def check_answers(record: Record) -> None:
    """Holds that something is known to set simulation against.

    Raises:
        InputError: The record says of no request when it ended.
    """
    if record.requests["finish_s"].isna().all():
        rule = "say when requests ended, which simulation is set against: a trace made of it does not"
        raise InputError("RECORD", rule, str(record.folder))


def replay_record(record: Record, world: World, ran: Policy, others: Sequence[Policy] = ()) -> Replayed:
    """Serves a record's requests in the simulator; every run of the gateway begins with nothing loaded.

    Args:
        record: What happened.
        world: What it was served by; its loads are replaced by measured ones.
        ran: The policy that decided.
        others: What else could have decided, with names that differ.

    Raises:
        InputError: A policy is an oracle, two have one name, or the record says of no request when it ended.
        UnknownNameError: The scenario lacks a model that was asked for.
        ShunterError: Nothing was answered both in reality and in the simulation.
    """
    policies = [ran, *others]
    _check(policies)
    check_answers(record)
    world, measured = measured_loads(world, record.events)
    parts = [rows for _, rows in record.requests.groupby("run", sort=True)]
    sequences = [requests_of(rows, world.scenario, lead_s=LEAD_S) for rows in parts]
    played = SequencesWorld.of(world, sequences)
    runs = {policy.name: [simulate(played, policy, seed) for seed in played.seeds] for policy in policies}
    table = pd.concat([_real(rows) for rows in parts], ignore_index=True)
    table["at_s"] = _times(parts)
    for name, each in runs.items():
        simulated = pd.concat([run.requests for run in each], ignore_index=True)
        table[f"simulated:{name}"] = simulated["finish_s"] - simulated["arrival_s"]
    complete = table.notna().all(axis=1) & (table["status"] == "done")
    if not complete.any():
        raise ShunterError("no request was answered both in reality and in the simulation")
    kept = table[complete].reset_index(drop=True)
    return Replayed(
        policy=ran.name,
        requests=kept.assign(block=_blocks(kept["at_s"].to_numpy(np.float64))),
        others=tuple(policy.name for policy in others),
        left_out=int((~complete).sum()),
        real_loads=len(good_loads(record.events)) if record.run_ids else None,
        loads={name: sum(map(_loads, each)) for name, each in runs.items()},
        measured=tuple(measured),
        shadows=tuple(shadowed(record.events)),
    )


def _check(policies: Sequence[Policy]) -> None:
    names = [policy.name for policy in policies]
    for policy in policies:
        if is_oracle(policy):
            raise InputError("--policy", "be no oracle: no server knows what it does", policy.name)
        if names.count(policy.name) > 1:
            raise InputError(
                "--policy", "differ in name from the others and from the one that ran", policy.name
            )


def _loads(run: Run) -> int:
    return sum(row["operation"] == "load" and row["end_s"] is not None for row in run.log.rows)


def _real(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["model", "status", "finish_s"]].rename(columns={"finish_s": "real_s"})


def _times(parts: Sequence[pd.DataFrame]) -> Array:
    """(requests,) seconds since the first request, as if one run had followed the other."""
    times, now_s = [], 0.0
    for rows in parts:
        arrival_s = rows["arrival_s"].to_numpy(np.float64)
        times.append(now_s + arrival_s - arrival_s[0])
        now_s = float(times[-1][-1])
    return np.concatenate(times)


def _blocks(at_s: Array) -> NDArray[np.int64]:
    """The block of time of each request."""
    count = int(np.clip(len(at_s) // _BLOCK, 1, _MOST_BLOCKS))
    share = (at_s - at_s.min()) / max(1e-9, float(np.ptp(at_s)))
    block: NDArray[np.int64] = np.minimum((share * count).astype(np.int64), count - 1)
    return block
