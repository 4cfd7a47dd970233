"""Servers drain: the rules where running requests can be neither paused nor moved (``limits.preemption``).

Workers of ours run one model at a time, a quantum after the other. Servers all run, and a request that was
sent to one stays there to its end. So a device has two lanes. In one the requests of its residents run, all
at once, and whoever waits for a resident with room in its batch joins without being asked for. In the other
the device loads and unloads, and only this one is the policy's: what it evicts admits nobody any more, runs
to its end, and is unloaded then. To run a resident means to keep what is there; the device is then asked,
once, what it loads beside it, of what fits and is waited for.

Who waited for what was loaded joins before the device is asked again: a policy cannot load in vain.

The running lane is looked at again when a request arrives or finishes, a load ends, or a quantum is over.
Servers share a device: where k of them run requests, each takes 1 + r (k - 1) times as long as alone, by the
device's ``run_contention`` r, which is 1 where they share it in time. One server prefills who joins, one
after another, before it goes on with its batch, each of which then gains a token a step. A load beside them
slows each down by ``load_contention`` c more, and takes 1 + c k times as long itself: at 0, as where weights
come over a bus to a GPU, neither knows of the other; at 1 the load is one more that runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from shunter.envs.rules.claims import claimable
from shunter.envs.rules.drift import draw_pace
from shunter.envs.rules.durations import fill_times, join_s, step_s, stretched, to_ns
from shunter.envs.rules.dynamics import claim, commit_batch, finish_evictions
from shunter.envs.rules.faults import lose
from shunter.envs.rules.objectives import begin_busy, end_busy
from shunter.envs.sim.compiled import entry, inlined, internal, jit
from shunter.envs.state.queues import give_up, next_arrival_ns, touch
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import EVICT, IDLE, KV_DROPPED, KV_LIVE, KV_NONE, LOAD, RUN, State
from shunter.envs.state.tables import Tables

__all__ = [
    "adopt",
    "begin_serving",
    "cancel",
    "end_serving",
    "fail_load",
    "is_draining",
    "lose_server",
    "requeue",
    "start_drained",
]


@inlined
def serving_level(s: State, d: int, m: int) -> int:
    """The level at which model m's server runs on device d, draining or not; -1 if none does."""
    place = s.place[d, m]
    return int(place.resident if place.resident >= 0 else place.evicting)


@internal
def add_running(t: Tables, s: State, d: int, m: int) -> None:
    """Claims the running requests of model m on device d, and those that join them."""
    before, batch = s.device[d].op_batch, 0
    left, i = s.place[d, m].held, s.model[m].head
    while left > 0:
        if s.slot[i].home == d and s.slot[i].owner < 0:
            left -= 1
            batch += 1
            claim(s, d, i)
        i = s.slot[i].next
    joins = s.model[m].unassigned if s.place[d, m].resident >= 0 else 0
    i = s.model[m].head
    while joins > 0 and batch < t.model[m].max_batch:
        if claimable(s, i, d):
            joins -= 1
            batch += 1
            claim(s, d, i)
        i = s.slot[i].next
    if s.device[d].op_batch > before:
        touch(s, m)


@inlined
def is_loading(s: State, d: int) -> bool:
    """Whether device d's other lane is at work, not only waiting for what drains."""
    device = s.device[d]
    return bool((device.op_kind == LOAD or device.op_kind == EVICT) and device.op_end_ns != FAR_NS)


@inlined
def delay_load(s: State, d: int, now_ns: int, delay: float) -> None:
    """From now on device d's load, if it has one, takes this much longer than alone, relative."""
    device = s.device[d]
    if is_loading(s, d) and device.load_delay != delay:
        begun_ns = max(now_ns, device.op_start_ns)
        left_ns = (device.op_end_ns - begun_ns) / (1.0 + device.load_delay)
        device.op_end_ns = begun_ns + int(np.round(max(0.0, left_ns) * (1.0 + delay)))
    device.load_delay = delay


@entry
def begin_serving(t: Tables, s: State, d: int) -> bool:
    """Lets the requests of device d's residents run; returns whether there are any.

    ``device.op_batch`` entries of the device are then theirs.
    """
    device = s.device[d]
    device.op_batch = 0
    for m in range(s.model.shape[0]):
        if serving_level(s, d, m) >= 0:
            add_running(t, s, d, m)
    if device.op_batch == 0:
        return False
    if device.op_kind < RUN:
        begin_busy(s, d)
    device.serving_since_ns = s.clock[0].now_ns
    device.serving_end_ns = FAR_NS
    return True


class Outlook(NamedTuple):
    """What the running requests of a model on a device have before them, if it had the device to itself.

    Attributes:
        running: Requests.
        prefill_s: Seconds until all of them have a first token.
        step_s: Seconds of a step of all that then go on.
        finish_s: Seconds until the first of them has its last token.
    """

    running: int
    prefill_s: float
    step_s: float
    finish_s: float


@inlined
def own_prefill_s(t: Tables, s: State, d: int, r: Any) -> float:
    """Seconds of the prefill of a request on device d, alone."""
    level = serving_level(s, d, r.model)
    factor = stretched(s.model[r.model].prefill_noise, t.level[d, r.model, level].prefill_halfwidth)
    factor *= 1.0 + s.device[d].slower
    return float(factor * join_s(t, d, r.model, level, KV_DROPPED, float(r.prompt_tokens + r.generated)))


@internal
def look_ahead(t: Tables, s: State, d: int, m: int) -> Outlook:
    """What model m's running requests on device d have before them."""
    running, going, held, fewest = 0, 0, 0, FAR_NS
    prefill_s, finish_s = 0.0, np.inf
    for b in range(s.device[d].op_batch):
        r = s.slot[s.entry[d, b].slot]
        if r.model != m:
            continue
        running += 1
        left = r.decode_tokens - r.generated
        if r.generated == 0:
            prefill_s += own_prefill_s(t, s, d, r)
            left -= 1
            if left == 0:
                finish_s = min(finish_s, prefill_s)
        if left > 0:
            going += 1
            held += r.prompt_tokens + r.decode_tokens - left
            fewest = min(fewest, left)
    if running == 0:
        return Outlook(0, 0.0, 0.0, np.inf)
    level, a_step_s = serving_level(s, d, m), 0.0
    if going > 0:
        factor = stretched(s.model[m].step_noise, t.level[d, m, level].step_halfwidth)
        factor *= 1.0 + s.device[d].slower
        a_step_s = factor * step_s(t, d, m, level, going, held / going)
        finish_s = min(finish_s, prefill_s + fewest * a_step_s)
    return Outlook(running, prefill_s, a_step_s, finish_s - s.place[d, m].partial_s)


@internal
def gain(t: Tables, s: State, d: int, m: int, ahead: Outlook, work_s: float, sharing: float) -> None:
    """Fills in what model m's running requests on device d gain by so many seconds of work."""
    device, place = s.device[d], s.place[d, m]
    work_s += place.partial_s
    steps, done_s = 0, 0.0
    if work_s >= ahead.prefill_s and ahead.step_s > 0.0:
        steps = int((work_s - ahead.prefill_s) / ahead.step_s + 1e-6)
        done_s = ahead.prefill_s + steps * ahead.step_s
    filled_s = 0.0
    for b in range(device.op_batch):
        entry = s.entry[d, b]
        r = s.slot[entry.slot]
        if r.model != m:
            continue
        if r.generated == 0:
            filled_s += own_prefill_s(t, s, d, r)
            if filled_s > work_s + 1e-9:
                continue
            done_s = max(done_s, filled_s)
            entry.tokens = 1
            entry.first_ns = device.serving_since_ns + to_ns(max(0.0, filled_s - place.partial_s) * sharing)
        entry.tokens += steps
        if r.generated + entry.tokens >= r.decode_tokens:
            entry.tokens = r.decode_tokens - r.generated
            entry.finish_ns = device.serving_end_ns
    place.partial_s = max(0.0, work_s - done_s)
    device.op_steps += steps


@internal
def fill_serving(t: Tables, s: State, d: int) -> None:
    """Predicts what device d's running requests gain until they are looked at again."""
    device, running, finish_s = s.device[d], 0, np.inf
    draw_pace(t, s, d, device.serving_since_ns)
    for m in range(s.model.shape[0]):
        ahead = look_ahead(t, s, d, m)
        if ahead.running > 0:
            running += 1
            finish_s = min(finish_s, ahead.finish_s)
    sharing = 1.0 + t.device[d].run_contention * (running - 1)
    end_ns = min(next_arrival_ns(s), device.serving_since_ns + t.limits[0].quantum_ns)
    if is_loading(s, d):
        contention = t.device[d].load_contention
        delay_load(s, d, device.serving_since_ns, contention * running)
        sharing += contention
        end_ns = min(end_ns, device.op_end_ns)
    last_ns = device.serving_since_ns + int(np.ceil(max(0.0, finish_s) * sharing * 1e9))
    device.serving_end_ns = max(device.serving_since_ns, min(end_ns, last_ns))
    device.op_steps = 0
    work_s = (device.serving_end_ns - device.serving_since_ns) * 1e-9 / sharing
    for m in range(s.model.shape[0]):
        ahead = look_ahead(t, s, d, m)
        if ahead.running > 0:
            gain(t, s, d, m, ahead, work_s, sharing)
        else:
            s.place[d, m].partial_s = 0.0


@entry
def is_draining(s: State, d: int) -> bool:
    """Whether device d's load or unload must wait for running requests of what it evicts."""
    waits = False
    for m in range(s.model.shape[0]):
        waits = waits or (s.place[d, m].evicting >= 0 and s.place[d, m].held > 0)
    return bool(waits)


@entry
def start_drained(t: Tables, s: State, d: int) -> bool:
    """Starts the load or unload of device d that waited for running requests; False if it goes on waiting.

    To be called while nothing runs in the device's other lane.
    """
    device = s.device[d]
    waits = (device.op_kind == LOAD or device.op_kind == EVICT) and device.op_end_ns == FAR_NS
    if not waits or is_draining(s, d):
        return False
    device.op_start_ns = s.clock[0].now_ns
    fill_times(t, s, d)
    return True


@entry
def end_serving(t: Tables, s: State, d: int) -> None:
    """Commits what device d's running requests gained until ``serving_end_ns``, which is filled in."""
    device = s.device[d]
    end_ns = device.serving_end_ns
    device.serving_end_ns = -1
    delay_load(s, d, end_ns, 0.0)
    if not is_loading(s, d):  # what loads meanwhile counts as loading
        s.counts[0].running_ns += end_ns - device.serving_since_ns
    commit_batch(s, d, end_ns)
    device.op_batch = 0
    for m in range(s.model.shape[0]):
        if serving_level(s, d, m) >= 0:
            s.place[d, m].last_used_ns = end_ns
            touch(s, m)
    if device.op_kind < RUN:
        end_busy(s, d)


@internal
def join_first(t: Tables, s: State, d: int) -> None:
    """Simulated servers: who waited for what device d has just loaded joins before anything is decided."""
    if s.device[d].serving_end_ns < 0 and begin_serving(t, s, d):
        s.device[d].serving_end_ns = s.device[d].serving_since_ns
        end_serving(t, s, d)


@inlined
def serve_all(t: Tables, s: State) -> None:
    """Simulated servers: begins to run what may run on every device that has decided."""
    for d in range(s.device.shape[0]):
        if s.device[d].serving_end_ns < 0 and s.device[d].op_kind != IDLE and begin_serving(t, s, d):
            fill_serving(t, s, d)


@inlined
def look_at_servers(t: Tables, s: State, now_ns: int) -> None:
    """Simulated servers: commits what has come to the end of a step, and starts the loads that it allows."""
    for d in range(s.device.shape[0]):
        if 0 <= s.device[d].serving_end_ns <= now_ns:
            end_serving(t, s, d)
            start_drained(t, s, d)


@jit
def cancel(t: Tables, s: State, i: int) -> None:
    """Takes the request in slot i out of the system, unserved; no lane of its device runs."""
    m = s.slot[i].model
    give_up(s, i)
    touch(s, m)


@jit
def adopt(t: Tables, s: State, i: int, d: int, generated: int) -> None:
    """The request in slot i, which nobody runs, is one that device d's server has been running."""
    r = s.slot[i]
    s.model[r.model].unassigned -= 1
    s.place[d, r.model].held += 1
    r.home = d
    r.kv = KV_LIVE
    r.generated = generated
    r.progress_ns = s.clock[0].now_ns
    touch(s, r.model)


@jit
def requeue(t: Tables, s: State, i: int) -> None:
    """The running request in slot i has lost its server before it gained anything: it waits again."""
    r = s.slot[i]
    s.place[r.home, r.model].held -= 1
    s.model[r.model].unassigned += 1
    s.model[r.model].unassigned_started += 1 if r.generated > 0 else 0
    r.home = -1
    r.kv = KV_DROPPED if r.generated > 0 else KV_NONE
    touch(s, r.model)


@jit
def lose_server(t: Tables, s: State, d: int, m: int) -> None:
    """Model m's server on device d is gone; its requests, if any, wait again. No lane of the device runs."""
    lose(s, d, m)
    s.device[d].promoted_model = -1
    touch(s, m)


@jit
def fail_load(t: Tables, s: State, d: int) -> None:
    """Device d's load has failed: what it evicted is gone, what it was to load is not there."""
    device = s.device[d]
    device.op_kind = IDLE
    device.promoted_model = -1
    device.promoted_ns = 0
    device.pending_model = -1
    if device.serving_end_ns < 0:
        end_busy(s, d)
    finish_evictions(s, d)
    touch(s, device.op_model)
