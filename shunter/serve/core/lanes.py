"""Requests and residents as the state has them, and the running lanes that real servers work off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.rules.candidates import used_bytes
from shunter.envs.rules.serving import begin_serving, cancel, end_serving, requeue
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.serve.core.effects import Dispatch, Effect, Job, Requeued

_UNKNOWN_TOKENS = 1 << 30
"""Decode length of a request as the state has it: no rule that holds here reads it."""


class Lanes:
    """What the core does to requests in the state; the core itself decides when.

    Attributes:
        world: The compiled scenario.
        tables: Its figures, as far as they were learned since.
        state: What the rules change.
        jobs: Requests in the system, by id.
        served: Requests that were answered, by model.
    """

    world: World
    tables: Tables
    state: State
    jobs: dict[int, Job]
    served: NDArray[np.int64]
    _at: dict[int, Job]
    _effects: list[Effect]

    def queued(self, model: int) -> int:
        """Requests of a model that no server has."""
        return int(self.state.model["unassigned"][model])

    def running(self, model: int) -> int:
        """Requests of a model that servers have."""
        return int(self.state.model["queue_length"][model]) - self.queued(model)

    def residents(self, device: int) -> list[tuple[int, int, bool]]:
        """Models that a device holds: index, level, and whether they drain."""
        place = self.state.place[device]
        return [
            (m, int(max(place["resident"][m], place["evicting"][m])), bool(place["resident"][m] < 0))
            for m in np.flatnonzero((place["resident"] >= 0) | (place["evicting"] >= 0)).tolist()
        ]

    def used_bytes(self, device: int) -> float:
        """Memory that a device's residents are counted with."""
        return float(used_bytes(self.tables, self.state, device))

    def free_bytes(self, device: int, model: int) -> float:
        """Memory of a device beside its residents and the model that it loads, as counted."""
        level = int(self.state.device["op_level"][device])
        loaded = float(self.tables.level["footprint_bytes"][device, model, level])
        return float(self.tables.device["capacity_bytes"][device]) - self.used_bytes(device) - loaded

    def _enter(self, job: Job) -> None:
        """Puts a request where ``admit`` finds it, and will put it into the first free slot."""
        clock, ring = self.state.clock[0], self.state.ring
        job.slot = int(clock["free"])
        new = ring[int(clock["filled"]) % len(ring)]
        new["arrival_ns"], new["model"] = job.arrival_ns, job.model
        new["prompt_tokens"], new["decode_tokens"] = job.prompt_tokens, _UNKNOWN_TOKENS
        clock["filled"] += 1
        self.jobs[job.id] = self._at[job.slot] = job

    def _remember(self, old: Lanes, moved: list[int]) -> None:
        """Takes over what another core has seen of models; ``moved`` says which they are here, or -1."""
        for before, model in enumerate(moved):
            if model >= 0:
                # That requests came over at once says nothing of how often they come.
                for name in ("rate_per_s", "last_arrival_ns"):
                    self.state.model[name][model] = old.state.model[name][before]
                self.served[model] = old.served[before]

    def _commit(self) -> None:
        """Ends the running lanes: what clients have got is what the requests have gained."""
        now_ns = int(self.state.clock["now_ns"][0])
        for device in np.flatnonzero(self.state.device["serving_end_ns"] >= 0).tolist():
            entries = self.state.entry[device, : self.state.device["op_batch"][device]]
            for entry in entries:
                job = self._at[int(entry["slot"])]
                entry["tokens"] = job.tokens - int(self.state.slot["generated"][job.slot])
                entry["first_ns"] = job.first_ns
                entry["finish_ns"] = job.finish_ns
                if job.finish_ns >= 0:
                    del self._at[job.slot], self.jobs[job.id]
            self.state.device["serving_end_ns"][device] = now_ns
            end_serving(self.tables, self.state, device)

    def _serve(self, device: int) -> None:
        """Begins the running lane of a device; who joins is sent to its server."""
        begin_serving(self.tables, self.state, device)
        for slot in self.state.entry["slot"][device, : self.state.device["op_batch"][device]].tolist():
            job = self._at[slot]
            if job.device < 0:
                job.device, job.sends = device, job.sends + 1
                job.sent_ns = job.quiet_ns = int(self.state.clock["now_ns"][0])
                self._effects.append(Dispatch(job.id, device, job.model))

    def progressed(self, now_ns: int, job: Job, tokens: int) -> None:
        """So many tokens of a request are out; nobody has to decide anything for that."""
        if job.first_ns < 0:
            job.first_ns = now_ns
        job.tokens = max(job.tokens, tokens)

    def _leave(self, job: Job) -> None:
        """Takes a request out, unserved; lanes are committed."""
        if job.id in self.jobs:
            cancel(self.tables, self.state, job.slot)
            del self._at[job.slot], self.jobs[job.id]

    def _again(self, job: Job) -> None:
        if job.id in self.jobs and self.state.slot["home"][job.slot] >= 0:
            requeue(self.tables, self.state, job.slot)
            job.device = -1
            self._effects.append(Requeued(job.id))

    def _touch(self, model: int) -> None:
        self.state.place["changed"][:, model] = 1
        self.state.place["stale"][:, model] = 1

    def check(self) -> None:
        """Holds the state against itself.

        Raises:
            AssertionError: A count is wrong, or memory is over budget.
        """
        state = self.state
        for device in range(self.world.devices):
            assert self.used_bytes(device) <= float(self.tables.device["capacity_bytes"][device]) + 1.0
        assert int(state.clock["in_system"][0]) == len(self.jobs) == len(self._at)
        for model in range(self.world.models):
            mine = [job for job in self.jobs.values() if job.model == model]
            assert int(state.model["queue_length"][model]) == len(mine)
            assert self.queued(model) == sum(job.device < 0 for job in mine)
            for device in range(self.world.devices):
                running = sum(job.device == device for job in mine)
                assert running <= int(self.tables.model["max_batch"][model])
                place = state.place[device, model]
                assert running == 0 or place["resident"] >= 0 or place["evicting"] >= 0
