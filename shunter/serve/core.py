"""What decides and owns all state, without input or output of its own.

One object, called from one place: every event of the gateway is a method that takes the time, and what is to
be done about it is what ``take`` returns. Between two events nothing changes. The rules are those of the
simulator (``shunter.envs.rules.serving``): an event ends the running lanes, what clients got until then is
committed, whoever asks decides, and the lanes begin anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shunter.agents.base import Policy, StatePolicy
from shunter.agents.parameters import for_world
from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import empty_observation
from shunter.envs.observation.features import feature
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import legal_action, used_bytes
from shunter.envs.rules.dynamics import admit, apply, complete, next_idle, open_episode, wake_waiting
from shunter.envs.rules.serving import (
    adopt,
    begin_serving,
    cancel,
    end_serving,
    fail_load,
    is_draining,
    lose_server,
    requeue,
    start_drained,
)
from shunter.envs.sim.simulation import predict
from shunter.envs.state.state import EVICT, IDLE, LOAD, WAIT, empty_state
from shunter.envs.world.world import World
from shunter.errors import InputError

__all__ = ["Broken", "Core", "Dispatch", "Job", "Refuse", "Start"]

FALLBACK = "cost-greedy"
ENDLESS = 1 << 60
UNKNOWN_TOKENS = 1 << 30
"""Decode length of a request as the state has it: no rule that holds here reads it."""

_LEARNING = 0.5
"""Weight of a load that was measured in what the next is expected to take."""

REQUESTS, OLDEST, SWAP = feature("requests"), feature("oldest_age"), feature("swap_time")


@dataclass
class Job:
    """A request in the system.

    Attributes:
        id: Number, in order of arrival.
        model: Index of its model.
        slot: Where the state has it.
        arrival_ns: When it arrived.
        prompt_tokens: Estimated, until the server says.
        device: Index of the device whose server has it; -1 while it waits.
        tokens: Generated so far.
        first_ns: When the first of them came; -1 before.
        finish_ns: When its answer ended; -1 before.
        sent_ns: When it was sent to a server last; -1 before.
        sends: How often it was sent to one.
        attempts: How many servers it has lost.
    """

    id: int
    model: int
    slot: int
    arrival_ns: int
    prompt_tokens: int
    device: int = -1
    tokens: int = 0
    first_ns: int = -1
    finish_ns: int = -1
    sent_ns: int = -1
    sends: int = 0
    attempts: int = 0


@dataclass(frozen=True)
class Dispatch:
    """A request goes to the server of its model on a device."""

    id: int
    device: int
    model: int


@dataclass(frozen=True)
class Start:
    """A device unloads some models and then, perhaps, loads one; ``Core.ended`` is told how it went.

    Attributes:
        device: Index of the device.
        evict: Indices of the models to unload.
        model: Index of the model to load; -1: none.
        level: Index of its level.
        expected_s: How long that is predicted to take.
    """

    device: int
    evict: tuple[int, ...]
    model: int
    level: int
    expected_s: float


@dataclass(frozen=True)
class Requeued:
    """A request has lost its server before anything was out, and waits again."""

    id: int


@dataclass(frozen=True)
class Refuse:
    """A waiting request cannot be served: its model does not load anywhere."""

    id: int


@dataclass(frozen=True)
class Broken:
    """A request has lost its server when part of the answer was out, or too often; it has left."""

    id: int


Effect = Dispatch | Start | Requeued | Refuse | Broken


@dataclass(frozen=True)
class Decision:
    """A decision in words, for people.

    Attributes:
        time_s: When, on the core's clock.
        device: Name of the device.
        choice: What was chosen.
        why: What spoke for it.
        took_ms: How long it took.
        shadow: What the shadow policy would have chosen; None without one.
        fallback: Whether the policy failed and another decided.
    """

    time_s: float
    device: str
    choice: str
    why: str
    took_ms: float
    shadow: str | None = None
    fallback: bool = False


@dataclass
class _Operation:
    """What a device's loading lane is at."""

    kind: str
    model: int
    level: int
    evict: tuple[int, ...]
    since_ns: int
    started: bool = False
    expected_s: float = 0.0


@dataclass
class Totals:
    """Counts since the start."""

    served: int = 0
    cancelled: int = 0
    failed: int = 0
    loads: int = 0
    evictions: int = 0
    decisions: int = 0
    fallbacks: int = 0


@dataclass
class _Blocked:
    """A model that did not load on a device.

    Attributes:
        until_ns: When it may be tried again.
        times: How often it failed in a row.
        reason: What its server said last.
    """

    until_ns: int
    times: int
    reason: str


@dataclass
class Core:
    """The state of a gateway and the rules by which it changes.

    Args:
        world: The compiled scenario; its ``limits.preemption`` is ``drain``.
        policy: Decides.
        shadow: Is asked too, and only noted.
        max_queue: Requests that may wait for one model.
        attempts: Servers that a request may lose before it has failed.
        backoff_s: Seconds after which a load that failed is tried again; doubled each time, up to 64 times.
        on_decision: Called before a decision is carried out, with its device, choice and seconds too.
        on_operation: Called with a device that has begun something.

    Attributes:
        jobs: Requests in the system, by id.
        decisions: The last ones.
    """

    world: World
    policy: Policy
    shadow: Policy | None = None
    max_queue: int = 512
    attempts: int = 3
    backoff_s: float = 10.0
    on_decision: Callable[[Decision, int, int, float], None] | None = None
    on_operation: Callable[[int], None] | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=100))
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        world = self.world
        mode = world.scenario.limits.preemption
        if mode != "drain":
            rule = "be drain for servers: a running request can be neither paused nor moved"
            raise InputError("limits.preemption", rule, mode)
        if self.policy.oracle:
            raise InputError("--policy", "be no oracle: no server knows what it does", self.policy.name)
        slots = world.models * self.max_queue + world.devices * world.entries + 1
        self.tables = world.tables.changed()
        self.state = empty_state((), world.levels, world.entries, slots=slots, ring=slots, outcomes=0)
        self.state.clock["last"] = ENDLESS
        open_episode(self.tables, self.state)
        self.state.place["resident"] = -1  # what is there from the beginning is loaded first
        self._first = {
            (int(at["start_device"]), m): int(at["start_level"])
            for m, at in enumerate(self.tables.model)
            if at["start_device"] >= 0
        }
        self._level_ok = self.tables.level["level_ok"].copy()
        self._fallback = make_policy(FALLBACK)
        self._at: dict[int, Job] = {}
        self._effects: list[Effect] = []
        self._operations: list[_Operation | None] = [None] * world.devices
        self._blocked: dict[tuple[int, int], _Blocked] = {}
        self._unwanted: set[tuple[int, int]] = set()
        self._count = 0
        self.paused = False
        self.served = np.zeros(world.models, np.int64)
        self._observation = empty_observation(world.actions)
        self.mask = self._observation["action_mask"].view(np.bool_)

    # What happens

    def begin(self, now_ns: int) -> None:
        """Has every device decide for the first time."""
        self._step(now_ns)

    def pause(self, now_ns: int, unwanted: set[tuple[int, int]]) -> None:
        """Loads nothing any more, and unloads these models of these devices; ``is_quiet`` says when it has.

        What runs goes on, and whoever comes to a resident joins.
        """
        self.paused = True
        self._unwanted |= unwanted
        self._step(now_ns)

    @property
    def is_quiet(self) -> bool:
        """Whether no device loads or unloads, or is about to."""
        return not self._unwanted and not any(self._operations)

    def take_over(
        self, now_ns: int, old: Core, residents: dict[tuple[int, int], int], moved: list[int]
    ) -> list[Job]:
        """Begins where another core, of another scenario, was quiet.

        Args:
            now_ns: When.
            old: The other core; it is of no use any more.
            residents: Level of what each device holds, by indices of device and model, in this core's world.
            moved: For each model of the other world its index in this one, -1 if it is gone.

        Returns:
            Requests for models that are gone; they are in no core.
        """
        state, lost = self.state, []
        for (device, model), level in residents.items():
            state.place["resident"][device, model] = level
        self.totals, self._count = old.totals, old._count
        self.decisions = old.decisions
        admit(self.tables, state, now_ns)
        for job in sorted(old.jobs.values(), key=lambda job: job.id):
            if moved[job.model] < 0:
                lost.append(job)
                continue
            job.model = moved[job.model]
            self._enter(job)
            admit(self.tables, state, now_ns)
            if job.device >= 0:
                adopt(self.tables, state, job.slot, job.device, job.tokens)
        self._step(now_ns)
        return lost

    def arrive(self, now_ns: int, model: int, prompt_tokens: int) -> Job:
        """A request arrives; there must be room for it in its model's queue (``queued``)."""
        job = Job(self._count, model, -1, now_ns, prompt_tokens)
        self._count += 1
        self._enter(job)
        self._step(now_ns)
        return job

    def _enter(self, job: Job) -> None:
        """Puts a request where ``admit`` finds it, and will put it into the first free slot."""
        clock, ring = self.state.clock[0], self.state.ring
        job.slot = int(clock["free"])
        new = ring[int(clock["filled"]) % len(ring)]
        new["arrival_ns"], new["model"] = job.arrival_ns, job.model
        new["prompt_tokens"], new["decode_tokens"] = job.prompt_tokens, UNKNOWN_TOKENS
        clock["filled"] += 1
        self.jobs[job.id] = self._at[job.slot] = job

    def progressed(self, now_ns: int, job: Job, tokens: int) -> None:
        """So many tokens of a request are out; nobody has to decide anything for that."""
        if job.first_ns < 0:
            job.first_ns = now_ns
        job.tokens = max(job.tokens, tokens)

    def finished(self, now_ns: int, job: Job, tokens: int | None) -> None:
        """A request's answer has ended."""
        if job.id not in self.jobs:
            return
        self.progressed(now_ns, job, tokens or max(1, job.tokens))
        job.finish_ns = now_ns
        self.totals.served += 1
        self.served[job.model] += 1
        self._step(now_ns)

    def gone(self, now_ns: int, job: Job, *, client: bool) -> None:
        """A request ends early: its client has left, or its server broke off."""
        if job.id not in self.jobs:
            return
        if client:
            self.totals.cancelled += 1
        else:
            self.totals.failed += 1
        self._step(now_ns, lambda: self._leave(job))

    def lost(self, now_ns: int, job: Job, sends: int) -> bool:
        """A request's server broke off before anything was out; returns whether it may wait again.

        Args:
            now_ns: When.
            job: The request.
            sends: ``job.sends`` as it was sent to that server: the core may have heard of it before.
        """
        if job.id not in self.jobs:
            return False
        if job.device < 0 or job.sends != sends:
            return True
        job.attempts += 1
        if job.attempts >= self.attempts:
            self.gone(now_ns, job, client=False)
            return False
        self._step(now_ns, lambda: self._again(job))
        return True

    def ended(self, now_ns: int, device: int, failure: str | None = None, *, memory: bool = False) -> None:
        """The operation that a device was told to start has ended.

        Args:
            now_ns: When.
            device: Index of the device.
            failure: Why the load failed; None: it did not.
            memory: Whether it failed for lack of memory.
        """
        operation = self._operations[device]
        assert operation is not None
        assert operation.started
        self._operations[device] = None

        def change() -> None:
            self.state.device["op_end_ns"][device] = now_ns
            self.totals.evictions += len(operation.evict)
            if failure is None:
                complete(self.state, device)
                if operation.kind == "load":
                    self.totals.loads += 1
                    self._blocked.pop((device, operation.model), None)
                    self._learn_load(device, operation, (now_ns - operation.since_ns) * 1e-9)
            else:
                fail_load(self.tables, self.state, device)
                self._block(now_ns, device, operation, failure, memory=memory)

        self._step(now_ns, change)

    def died(self, now_ns: int, device: int, model: int, reason: str) -> None:
        """A server has ended by itself."""
        place = self.state.place[device, model]
        if place["resident"] < 0 and place["evicting"] < 0:
            return

        def change() -> None:
            mine = [job for job in self.jobs.values() if job.device == device and job.model == model]
            lose_server(self.tables, self.state, device, model)
            for job in mine:
                job.device = -1
                job.attempts += 1
                if job.tokens > 0 or job.attempts >= self.attempts:
                    self.totals.failed += 1
                    self._leave(job)
                    self._effects.append(Broken(job.id))
                else:
                    self._effects.append(Requeued(job.id))
            # The first time it may just be loaded again.
            if (device, model) in self._blocked:
                self._note_failure(now_ns, device, model, reason)
            else:
                self._blocked[device, model] = _Blocked(0, 0, reason)

        self._step(now_ns, change)

    def unload(self, now_ns: int, model: int) -> bool:
        """Somebody wants a model unloaded; returns whether it is loaded anywhere."""
        pinned = int(self.tables.model["pinned"][model])
        where = [
            d for d in np.flatnonzero(self.state.place["resident"][:, model] >= 0).tolist() if d != pinned
        ]
        self._unwanted |= {(device, model) for device in where}
        self._step(now_ns)
        return bool(where)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        for (device, model), blocked in list(self._blocked.items()):
            if 0 < blocked.until_ns <= now_ns:
                blocked.until_ns = 0
                self._allow(device, model)
        self._step(now_ns)

    def measured(self, device: int, model: int, level: int, device_bytes: float) -> None:
        """A server takes more memory than was counted: what fits is counted with it from now on."""
        at = self.tables.level[device, model, level]
        capacity = float(self.tables.device["capacity_bytes"][device])
        at["footprint_bytes"] = min(capacity, max(float(at["footprint_bytes"]), device_bytes))
        self._touch(model)

    def take(self) -> list[Effect]:
        """What is to be done about what has happened; empties the list."""
        effects, self._effects = self._effects, []
        return effects

    # What there is

    def queued(self, model: int) -> int:
        """Requests of a model that no server has."""
        return int(self.state.model["unassigned"][model])

    def running(self, model: int) -> int:
        """Requests of a model that servers have."""
        return int(self.state.model["queue_length"][model]) - self.queued(model)

    def operation(self, device: int) -> _Operation | None:
        """What a device's loading lane is at."""
        return self._operations[device]

    def failure(self, model: int) -> _Blocked | None:
        """Why no device loads a model for now; None if one may."""
        fits = np.flatnonzero(self._level_ok[:, model].any(axis=1))
        found = [self._blocked.get((int(device), model)) for device in fits]
        blocked = [one for one in found if one is not None and one.until_ns > 0]
        return min(blocked, key=lambda one: one.until_ns) if len(blocked) == len(fits) else None

    def next_ns(self) -> int | None:
        """When ``tick`` has something to do at the latest; None: whenever."""
        times = [b.until_ns for b in self._blocked.values() if b.until_ns > 0]
        return min(times) if times else None

    # How it changes

    def _step(self, now_ns: int, change: Callable[[], None] | None = None) -> None:
        tables, state = self.tables, self.state
        admit(tables, state, max(now_ns, int(state.clock["now_ns"][0])))
        self._commit()
        if change is not None:
            change()
        for device, operation in enumerate(self._operations):
            if operation is not None and not operation.started and start_drained(tables, state, device):
                self._begin(device, operation)
        wake_waiting(state)
        while (device := int(next_idle(state))) >= 0:
            self._ask(device)
        for device in range(self.world.devices):
            self._serve(device)

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
                job.sent_ns = int(self.state.clock["now_ns"][0])
                self._effects.append(Dispatch(job.id, device, job.model))

    def _ask(self, device: int) -> None:
        tables, state = self.tables, self.state
        if self._put_out(device):
            return
        if self.paused:
            self._apply(device, self.world.actions - 1)
            return
        begun_s = time.perf_counter()
        seen = self._observation
        observe(tables, state, device, seen["candidates"], seen["context"], self.mask)
        wanted, is_fallback = self._wanted(self.policy, device)
        choice = int(legal_action(tables, state, device, wanted))
        took_s = time.perf_counter() - begun_s
        shadow = None
        if self.shadow is not None:
            at = int(legal_action(tables, state, device, self._wanted(self.shadow, device)[0]))
            shadow = self.world.action_name(at)
        decision = Decision(
            time_s=int(state.clock["now_ns"][0]) * 1e-9,
            device=self.world.scenario.devices[device].name,
            choice=self.world.action_name(choice),
            why=self._why(choice),
            took_ms=took_s * 1e3,
            shadow=shadow,
            fallback=is_fallback,
        )
        self.totals.decisions += 1
        self.totals.fallbacks += is_fallback
        if self.on_decision is not None:
            self.on_decision(decision, device, choice, took_s)
        if not self.decisions or (self.decisions[-1].device, self.decisions[-1].choice) != (
            decision.device,
            decision.choice,
        ):
            self.decisions.append(decision)
        self._apply(device, choice)
        if self.on_operation is not None:
            self.on_operation(device)

    def _wanted(self, policy: Policy, device: int) -> tuple[int, bool]:
        """What a policy chooses; what the fallback does, and True, where it fails."""
        try:
            ready = for_world(policy, self.world)
            if isinstance(ready, StatePolicy):
                return int(ready.act_on(self.world, self.state, device, self._observation)), False
            return int(ready.act(self._observation)), False
        except Exception:  # a third party's policy may raise anything; requests must not suffer for it
            return int(self._fallback.act(self._observation)), True

    def _why(self, choice: int) -> str:
        """What a choice's features say, in words."""
        row, scale_s = self._observation["candidates"][choice], self.world.time_scale_s
        if choice == self.world.actions - 1:
            return "nothing that is worth it"
        words = [f"{row[REQUESTS]:.2g} waiting or expected"]
        if row[OLDEST] > 0:
            words.append(f"oldest for {row[OLDEST] * scale_s:.1f} s")
        if row[SWAP] > 0:
            words.append(f"ready in {row[SWAP] * scale_s:.1f} s")
        return ", ".join(words)

    def _apply(self, device: int, choice: int) -> None:
        state = self.state
        if not apply(self.tables, state, device, choice):
            return
        now = state.device[device]
        if now["op_kind"] == WAIT:
            return
        predict(self.tables, state, device)
        evict = np.flatnonzero(state.place["evicting"][device] >= 0)
        is_load = now["op_kind"] == LOAD
        operation = _Operation(
            kind="load" if is_load else "unload",
            model=int(now["op_model"]),
            level=int(now["op_level"]),
            evict=tuple(evict.tolist()),
            since_ns=int(state.clock["now_ns"][0]),
        )
        self._operations[device] = operation
        if not is_draining(state, device):
            self._begin(device, operation)

    def _begin(self, device: int, operation: _Operation) -> None:
        now = self.state.device[device]
        operation.started = True
        operation.since_ns = int(self.state.clock["now_ns"][0])
        operation.expected_s = max(0, int(now["op_end_ns"]) - operation.since_ns) * 1e-9
        # When it ends is for its server to say: until then it ends in the future.
        model = operation.model if operation.kind == "load" else -1
        self._effects.append(Start(device, operation.evict, model, operation.level, operation.expected_s))

    def _put_out(self, device: int) -> bool:
        """Begins to unload what is not wanted on a device, or to load what is always; whether it did."""
        state = self.state
        if self._load_first(device):
            return True
        for where, model in sorted(self._unwanted):
            if where != device:
                continue
            self._unwanted.discard((where, model))
            if state.place["resident"][device, model] >= 0 and state.device["pending_model"][device] < 0:
                state.device["kept"][device] = 0
                self._apply(device, self.world.models * self.world.levels[2] + model)
                return True
        return False

    def _load_first(self, device: int) -> bool:
        """Begins to load what a device is to hold from the beginning, if that may be; whether it did."""
        for (where, model), level in self._first.items():
            if where == device and not self.paused and self.tables.level["level_ok"][device, model, level]:
                if self.tables.model["pinned"][model] != device:
                    del self._first[where, model]
                if self.state.place["resident"][device, model] < 0:
                    self.state.device["kept"][device] = 0
                    self._apply(device, model * self.world.levels[2] + level)
                    return True
                return False
        return False

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

    def _block(self, now_ns: int, device: int, operation: _Operation, reason: str, *, memory: bool) -> None:
        """A load failed: it is tried again alone on the device, or after a while."""
        model, level = operation.model, operation.level
        capacity = float(self.tables.device["capacity_bytes"][device])
        at = self.tables.level[device, model, level]
        if memory and float(at["footprint_bytes"]) < capacity:
            at["footprint_bytes"] = capacity
            self._touch(model)
            return
        self._note_failure(now_ns, device, model, reason)

    def _learn_load(self, device: int, operation: _Operation, took_s: float) -> None:
        """Expects of the next load what this one took, evictions included, as much as what was expected."""
        at = self.tables.level[device, operation.model, operation.level]
        unloads_s = sum(float(self.tables.level["unload_s"][device, m].max()) for m in operation.evict)
        at["load_s"] += _LEARNING * (max(0.0, took_s - unloads_s) - float(at["load_s"]))
        self._touch(operation.model)

    def _note_failure(self, now_ns: int, device: int, model: int, reason: str) -> None:
        times = self._blocked[device, model].times + 1 if (device, model) in self._blocked else 1
        wait_s = self.backoff_s * 2 ** min(6, times - 1)
        self._blocked[device, model] = _Blocked(now_ns + round(wait_s * 1e9), times, reason)
        self.tables.level["level_ok"][device, model] = 0
        self._touch(model)
        if self.failure(model) is not None:
            for job in [j for j in self.jobs.values() if j.model == model and j.device < 0]:
                self.totals.failed += 1
                self._leave(job)
                self._effects.append(Refuse(job.id))

    def _allow(self, device: int, model: int) -> None:
        self.tables.level["level_ok"][device, model] = self._level_ok[device, model]
        self._touch(model)

    def _touch(self, model: int) -> None:
        self.state.place["changed"][:, model] = 1
        self.state.place["stale"][:, model] = 1

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

    def check(self) -> None:
        """Holds the state against itself.

        Raises:
            AssertionError: A count is wrong, or memory is over budget.
        """
        state = self.state
        for device in range(self.world.devices):
            assert self.used_bytes(device) <= float(self.tables.device["capacity_bytes"][device]) + 1.0
            assert state.device["op_kind"][device] != IDLE
            kind = int(state.device["op_kind"][device])
            assert (self._operations[device] is not None) == (kind in (LOAD, EVICT))
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
