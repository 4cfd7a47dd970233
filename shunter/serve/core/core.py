"""What decides and owns all state, without input or output of its own.

One object, called from one place: every event of the gateway is a method that takes the time, and what is to
be done about it is what ``take`` returns. Between two events nothing changes. The rules are those of the
simulator (``shunter.envs.rules.serving``): an event ends the running lanes, what clients got until then is
committed, whoever asks decides, and the lanes begin anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shunter.agents.base import Policy, is_oracle
from shunter.agents.parameters import for_world
from shunter.envs.rules.dynamics import admit, apply, complete, next_idle, open_episode, wake_waiting
from shunter.envs.rules.expiry import next_expiry_ns
from shunter.envs.rules.serving import adopt, fail_load, is_draining, lose_server, start_drained
from shunter.envs.sim.simulation import predict
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import EVICT, IDLE, LOAD, WAIT, empty_state
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.serve.core.blocks import Blocked, Blocks
from shunter.serve.core.chooser import Chooser
from shunter.serve.core.effects import (
    Broken,
    Decision,
    Effect,
    Job,
    Operation,
    Refuse,
    Requeued,
    Start,
    Totals,
)
from shunter.serve.core.lanes import Lanes
from shunter.serve.core.learning import learn_load, learn_memory
from shunter.serve.core.patience import stuck_jobs
from shunter.serve.core.watch import Watch
from shunter.serve.core.wishes import Wishes

__all__ = ["Core"]


@dataclass
class Core(Lanes):
    """The state of a gateway and the rules by which it changes.

    Args:
        world: The compiled scenario; its ``limits.preemption`` is ``drain``.
        policy: Decides.
        shadow: Is asked too, and only noted.
        max_queue: Requests that may wait for one model.
        attempts: Servers that a request may lose before it has failed.
        backoff_s: Seconds after which a load that failed is tried again; doubled each time, up to 64 times.
        hang_after_s: Seconds that a server may say nothing to a request, beside what is predicted.
        watch: Is told what it does.

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
    hang_after_s: float = 300.0
    watch: Watch = field(default_factory=Watch)
    jobs: dict[int, Job] = field(default_factory=dict)
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=100))
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        world = self.world
        mode = world.scenario.limits.preemption
        if mode != "drain":
            rule = "be drain for servers: a running request can be neither paused nor moved"
            raise InputError("limits.preemption", rule, mode)
        if is_oracle(self.policy):
            raise InputError("--policy", "be no oracle: no server knows what it does", self.policy.name)
        self.policy = for_world(self.policy, world)
        self.shadow = None if self.shadow is None else for_world(self.shadow, world)
        slots = world.models * self.max_queue + world.devices * world.entries + 1
        self.tables = world.tables.changed(sleep=0)  # who sleeps, the fleet knows by itself
        self.state = empty_state((), world.levels, world.entries, slots=slots, ring=slots, outcomes=0)
        self.state.clock["last"] = 1 << 60  # there is no last request
        open_episode(self.tables, self.state)
        self.state.place["resident"] = -1  # what is there from the beginning is loaded first
        self._wishes = Wishes(self.tables, self.state)
        self._at, self._effects = {}, []
        self._operations: list[Operation | None] = [None] * world.devices
        self.served = np.zeros(world.models, np.int64)
        self._blocks = Blocks(self.tables, self.backoff_s)
        self._count, self.paused = 0, False
        self._chooser = Chooser(world, self.tables, self.state)
        self.mask = self._chooser.mask

    # What happens

    def begin(self, now_ns: int) -> None:
        """Has every device decide for the first time."""
        self._step(now_ns)

    def pause(self, now_ns: int, unwanted: set[tuple[int, int]] | None) -> None:
        """Loads nothing any more and unloads these models of these devices, till ``is_quiet``; None: goes on.

        What runs goes on, and whoever comes to a resident joins.
        """
        self.paused = unwanted is not None
        self._wishes.reload(unwanted or set())
        self._step(now_ns)

    @property
    def is_quiet(self) -> bool:
        """Whether no device loads or unloads, or is about to."""
        return not self._wishes.unwanted and not any(self._operations)

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
            Requests for models that are gone; they are in no core, and their ``model`` is -1.
        """
        for (device, model), level in residents.items():
            self.state.place["resident"][device, model] = level
            self.state.place["last_used_ns"][device, model] = now_ns
        self.totals, self._count, self.decisions = old.totals, old._count, old.decisions
        admit(self.tables, self.state, now_ns)
        for job in sorted(old.jobs.values(), key=lambda job: job.id):
            job.model = moved[job.model]
            if job.model >= 0:
                self._enter(job)
                admit(self.tables, self.state, now_ns)
                if job.device >= 0:
                    adopt(self.tables, self.state, job.slot, job.device, job.tokens)
        self._remember(old, moved)
        self._step(now_ns)
        return [job for job in old.jobs.values() if job.model < 0]

    def arrive(self, now_ns: int, model: int, prompt_tokens: int, silent_tokens: int = 1) -> Job:
        """A request arrives; there must be room for it in its model's queue (``queued``)."""
        job = Job(self._count, model, -1, now_ns, prompt_tokens, silent_tokens=silent_tokens)
        self._count += 1
        self._enter(job)
        self._step(now_ns)
        return job

    def finished(self, now_ns: int, job: Job, tokens: int | None) -> None:
        """A request's answer has ended."""
        if job.id not in self.jobs:
            return
        self.progressed(now_ns, job, tokens or max(1, job.tokens))
        job.finish_ns = now_ns
        self.totals.served += 1
        self.served[job.model] += 1
        self._blocks.answered(job.device, job.model)
        # Its server may have ended right after the answer, and the core have heard of that first.
        self._step(now_ns, None if job.device >= 0 else lambda: self._leave(job))

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
            # Until now it was to begin once the decision was made, as is assumed of one.
            self.state.device["op_start_ns"][device] = operation.since_ns
            self.state.device["op_end_ns"][device] = now_ns
            self.totals.evictions += len(operation.evict)
            if failure is None:
                complete(self.state, device)
                self.watch.over(device)
                if operation.kind == "load":
                    self.totals.loads += 1
                    model, level = operation.model, operation.level
                    took_s = (now_ns - operation.since_ns) * 1e-9
                    learn_load(self.tables, device, model, level, took_s, operation.evict)
                    self._touch(model)
                    self._serve(device)  # who waited for it joins before anything is decided
                    self._commit()
            else:
                fail_load(self.tables, self.state, device)
                self.watch.over(device)
                self._block(now_ns, device, operation, failure, memory=memory)

        self._step(now_ns, change)

    def stuck(self, now_ns: int) -> list[Job]:
        """Requests whose servers are to be ended, for they say nothing any more; none is tried again."""
        found = stuck_jobs(self.tables, self.state, self.jobs.values(), now_ns, self.hang_after_s)
        for job in found:
            job.attempts = self.attempts
        return found

    def died(self, now_ns: int, device: int, model: int, reason: str) -> None:
        """A server has ended by itself, or was of no use any more."""
        place = self.state.place[device, model]
        if place["resident"] < 0 and place["evicting"] < 0:
            return

        def change() -> None:
            mine = [job for job in self.jobs.values() if job.device == device and job.model == model]
            self.watch.lost(device, model, int(max(place["resident"], place["evicting"])), reason)
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
            self._blocks.died(now_ns, device, model, reason)
            self._refuse_failed(model)

        self._step(now_ns, change)

    def unload(self, now_ns: int, model: int) -> bool:
        """Somebody wants a model unloaded; returns whether it is loaded anywhere."""
        found = self._wishes.unload(model)
        self._step(now_ns)
        return found

    def tick(self, now_ns: int) -> None:
        """Time has passed: who has waited long enough is asked again, and what failed may be tried again."""
        is_due = now_ns >= self.next_ns()
        for model in self._blocks.pass_time(now_ns):
            self._touch(model)
        if is_due:
            self._step(now_ns)

    def measured(self, device: int, model: int, level: int, device_bytes: float) -> bool:
        """A server takes so much memory: it is counted with that, if it is more; returns whether it is."""
        self._touch(model)
        return learn_memory(self.tables, device, model, level, device_bytes)

    def take(self) -> list[Effect]:
        """What is to be done about what has happened; empties the list."""
        effects, self._effects = self._effects, []
        return effects

    # What there is

    def operation(self, device: int) -> Operation | None:
        """What a device's loading lane is at."""
        return self._operations[device]

    def failure(self, model: int) -> Blocked | None:
        """Why no device loads a model for now; None if one may."""
        return self._blocks.of(model)

    def next_ns(self) -> int:
        """When ``tick`` has something to do; ``FAR_NS``: when something else has happened."""
        waiting = np.isin(self.state.device["op_kind"], (IDLE, WAIT))
        times = [*self._blocks.next_ns(), *self.state.device["op_end_ns"][waiting].tolist()]
        return int(min(next_expiry_ns(self.tables, self.state), *times, FAR_NS))

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
        for device in np.flatnonzero(state.device["serving_end_ns"] < 0).tolist():
            self._serve(device)

    def _ask(self, device: int) -> None:
        wish = self._wishes.action(device, paused=self.paused)
        if wish is not None:
            self.state.device["kept"][device] = 0
            decision = self._chooser.wished(device, *wish)
        elif self.paused:
            self._apply(device, self.world.actions - 1, "reload")
            return
        else:
            decision = self._chooser.choose(self.policy, self.shadow, device)
            self.totals.count(decision)
        self.watch.decided(decision, device)
        if not self.decisions or decision.is_news_after(self.decisions[-1]):
            self.decisions.append(decision)
        self._apply(device, decision.action, decision.cause)
        if not decision.repeats:
            self.watch.began(device)

    def _apply(self, device: int, choice: int, cause: str) -> None:
        state = self.state
        if not apply(self.tables, state, device, choice):
            return
        now = state.device[device]
        if now["op_kind"] == WAIT:
            return
        predict(self.tables, state, device)
        operation = Operation(
            kind="load" if now["op_kind"] == LOAD else "unload",
            model=int(now["op_model"]),
            level=int(now["op_level"]),
            evict=tuple(np.flatnonzero(state.place["evicting"][device] >= 0).tolist()),
            since_ns=int(state.clock["now_ns"][0]),
            cause=cause,
        )
        self._operations[device] = operation
        if not is_draining(state, device):
            self._begin(device, operation)

    def _begin(self, device: int, operation: Operation) -> None:
        now = self.state.device[device]
        operation.started = True
        operation.since_ns = int(self.state.clock["now_ns"][0])
        operation.expected_s = max(0, int(now["op_end_ns"]) - operation.since_ns) * 1e-9
        # When it ends is for its server to say: until then it ends in the future.
        model = operation.model if operation.kind == "load" else -1
        expected_s, cause = operation.expected_s, operation.cause
        self._effects.append(Start(device, operation.evict, model, operation.level, expected_s, cause))

    def _block(self, now_ns: int, device: int, operation: Operation, reason: str, *, memory: bool) -> None:
        """A load failed: it is tried again alone on the device, or after a while."""
        if memory and self.measured(device, operation.model, operation.level, np.inf):
            return
        self._blocks.failed(now_ns, device, operation.model, reason)
        self._refuse_failed(operation.model)

    def _refuse_failed(self, model: int) -> None:
        """Who waits for a model is told, if no device loads it for now."""
        self._touch(model)
        if self.failure(model) is not None:
            for job in [j for j in self.jobs.values() if j.model == model and j.device < 0]:
                self.totals.failed += 1
                self._leave(job)
                self._effects.append(Refuse(job.id))

    def check(self) -> None:
        """Holds the state against itself, and against what is going on.

        Raises:
            AssertionError: A count is wrong, memory is over budget, or a device has not been asked.
        """
        super().check()
        for kind, operation in zip(self.state.device["op_kind"].tolist(), self._operations, strict=True):
            assert kind != IDLE
            assert (operation is not None) == (kind in (LOAD, EVICT))
