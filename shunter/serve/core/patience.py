"""How long a server may say nothing to a request that it has: that it calls itself well tells little."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables
from shunter.serve.core.effects import Job

_TIMES = 10.0
"""How many times the predicted silence of a server is borne, beside what the operator says."""


def stuck_jobs(tables: Tables, state: State, jobs: Collection[Job], now_ns: int, least_s: float) -> list[Job]:
    """Requests to which their server has said nothing for too long; of each server the longest silence.

    Args:
        tables: Predictions.
        state: Where the servers are, and at which level.
        jobs: All requests.
        now_ns: When.
        least_s: Seconds of silence that are borne whatever is predicted.
    """
    listened = [job for job in jobs if job.device >= 0 and job.quiet_ns >= 0]
    silent = [job for job in listened if now_ns - job.quiet_ns > least_s * 1e9]
    found: dict[tuple[int, int], Job] = {}
    for job in sorted(silent, key=lambda job: job.quiet_ns):
        borne_s = least_s + _TIMES * _silence_s(tables, state, jobs, job)
        if (job.device, job.model) not in found and now_ns - job.quiet_ns > borne_s * 1e9:
            found[job.device, job.model] = job
    return list(found.values())


def _silence_s(tables: Tables, state: State, jobs: Collection[Job], job: Job) -> float:
    """Seconds within which a server is predicted to say something to a request.

    Every prompt that its server has may be read first; all steps are taken for those of a full batch of the
    longest contexts. Where several servers of a device run requests, each is so many times as slow.
    """
    place = state.place[job.device, job.model]
    at = job.device, job.model, int(max(place["resident"], place["evicting"]))
    there = [other for other in jobs if other.device == job.device]
    prompts = [other.prompt_tokens for other in there if other.model == job.model]
    prefill_s = float(np.interp(prompts, tables.prefill_tokens, tables.prefill_s[at]).sum())
    step_s = float(tables.step_s[at][int(tables.model["max_batch"][job.model]) - 1, -1])
    return len({other.model for other in there}) * (prefill_s + job.silent_tokens * step_s)
