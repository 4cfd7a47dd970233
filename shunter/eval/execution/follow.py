"""Following a machine that is slower or quicker than when profiled, by the durations of a real run itself.

For each device, loads (with what is evicted for them) and quanta are apart. After an operation that took x
times as long as predicted, the estimate of log x moves towards it, the further the longer the operation took:
with a time constant of ``TIME_CONSTANT_S`` of that device's work. One operation moves it by no more than its
share of ``LARGEST_STEP``, so that a cold load or a hiccup is no trend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shunter.envs.state.state import LOAD, RUN, State
from shunter.envs.state.tables import Tables

TIME_CONSTANT_S = 10.0
"""Engineering choice: some tens of operations on small models; disturbances that matter last for longer."""

LARGEST_STEP = math.log(2.0)
"""Log ratios further than this from the estimate count as this far: a Huber-like bound."""

LOADS, QUANTA = 0, 1


@dataclass(frozen=True)
class Expected:
    """An operation as the tables predict it, and what it then took.

    Attributes:
        kind: The device's ``op_kind``.
        start_ns: When it begins.
        joined_ns: When the last prefill of a quantum ends.
        end_ns: When it ends.
        steps: Decode steps of a quantum.
    """

    kind: int
    start_ns: int
    joined_ns: int
    end_ns: int
    steps: int

    def tell(self, follower: Follower, device: int, steps: int, measured_s: float) -> None:
        """Tells a follower what it took.

        Args:
            follower: Told of loads and quanta.
            device: Index of the device.
            steps: Decode steps that ran: in a quantum that ends with its time, fewer if they are slower.
            measured_s: What all took.
        """
        if self.kind not in (LOAD, RUN):
            return
        decode_ns = float(self.end_ns - self.joined_ns)
        if self.steps > 0:
            decode_ns *= steps / self.steps
        predicted_s = (self.joined_ns - self.start_ns + decode_ns) * 1e-9
        follower.saw(device, LOADS if self.kind == LOAD else QUANTA, predicted_s, measured_s)


def expected_of(state: State, device: int, batch: int) -> Expected:
    """What ``fill_times`` wrote of a device's operation.

    Args:
        state: The state with its prediction in it.
        device: Index of the device.
        batch: Requests of the operation.
    """
    now = state.device[device]
    start_ns = int(now["op_start_ns"])
    firsts_ns = state.entry["first_ns"][device, :batch] if now["op_kind"] == RUN else np.empty(0, np.int64)
    joined_ns = max(start_ns, int(firsts_ns.max(initial=start_ns)))
    return Expected(int(now["op_kind"]), start_ns, joined_ns, int(now["op_end_ns"]), int(now["op_steps"]))


class Follower:
    """Tables that follow the machine.

    Args:
        tables: As predicted; they stay as they are.
        time_constant_s: Work of a device after which the estimate has gone 63 % of the way.

    Attributes:
        tables: A copy, whose durations are times what was last estimated.
    """

    def __init__(self, tables: Tables, time_constant_s: float = TIME_CONSTANT_S) -> None:
        self._predicted, self._time_constant_s = tables, time_constant_s
        self._logs = np.zeros((len(tables.device), 2))
        copies = {
            name: getattr(tables, name).copy()
            for name in ("prefill_s", "step_s", "kv_save_s", "kv_restore_s")
        }
        self.tables = tables._replace(level=tables.level.copy(), asleep=tables.asleep.copy(), **copies)

    def slowdown(self, device: int, kind: int) -> float:
        """How many times as long as predicted operations take there now, as far as was seen.

        Args:
            device: Index of the device.
            kind: ``LOADS`` or ``QUANTA``.
        """
        return math.exp(self._logs[device, kind])

    def saw(self, device: int, kind: int, predicted_s: float, measured_s: float) -> None:
        """Takes an operation into account.

        Args:
            device: Index of the device.
            kind: ``LOADS`` or ``QUANTA``.
            predicted_s: What it should have taken by the tables as they were predicted.
            measured_s: What it took.
        """
        if predicted_s <= 0 or measured_s <= 0:
            return
        off = math.log(measured_s / predicted_s) - self._logs[device, kind]
        gain = -math.expm1(-measured_s / self._time_constant_s)
        self._logs[device, kind] += gain * min(LARGEST_STEP, max(-LARGEST_STEP, off))
        self._write(device)

    def _write(self, device: int) -> None:
        """In place: compiled code and the episode hold these arrays."""
        load, quantum = (self.slowdown(device, kind) for kind in (LOADS, QUANTA))
        for name in ("load_s", "cold_load_s", "unload_s"):
            self.tables.level[name][device] = load * self._predicted.level[name][device]
        for name in ("wake_s", "fall_asleep_s"):
            self.tables.asleep[name][device] = load * self._predicted.asleep[name][device]
        for name in ("prefill_s", "step_s", "kv_save_s", "kv_restore_s"):
            np.multiply(
                getattr(self._predicted, name)[device], quantum, out=getattr(self.tables, name)[device]
            )
