"""A scenario compiled with a performance model: the tables that the dynamics run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shunter.envs.scenario import Scenario, load_scenario
from shunter.envs.state import EVICT, IDLE, LOAD, RUN, WAIT, Requests, State
from shunter.envs.tables import Tables
from shunter.envs.tabulation import Tabulation, check_fits, existing_levels
from shunter.envs.workload import draw_requests, replay_rate_per_s, request_chunks
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel

__all__ = ["World", "make_world", "with_footprints"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Everything that an episode needs.

    Attributes:
        scenario: What was asked for.
        tables: Predicted durations and sizes.
        gpu_layers: For each model, gpu_layers of its levels, most on the device first.
        rate_per_s: Mean arrivals per second.
        service_s: (devices,) seconds of a mean request run alone on a loaded device.
        interpolation_error: Largest relative error of the tables midway between their grid points, against
            direct predictions.
    """

    scenario: Scenario
    tables: Tables
    gpu_layers: tuple[tuple[int, ...], ...]
    rate_per_s: float
    service_s: Array
    interpolation_error: float = 0.0

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.scenario.devices)

    @property
    def models(self) -> int:
        """Number of models."""
        return len(self.scenario.models)

    @property
    def max_batch(self) -> int:
        """Requests that one resident decodes at once."""
        return self.scenario.limits.max_batch

    @property
    def actions(self) -> int:
        """Number of candidates of a decision."""
        _, models, levels = self.levels
        return models * levels + models + 1

    @property
    def time_scale_s(self) -> float:
        """Mean load plus mean service time of a request: the unit of time in features and rewards."""
        return float(self.tables.time_scale_s[0])

    @property
    def max_time_ns(self) -> int:
        """When an episode is cut off."""
        return int(self.scenario.limits.max_time_s * 1e9)

    @property
    def levels(self) -> tuple[int, int, int]:
        """Number of devices, of models, and of levels of the model that has most."""
        devices, models, levels = self.tables.level.shape
        return devices, models, levels

    def draw(self, seed: int) -> Requests:
        """Draws the requests of one episode."""
        scenario = self.scenario
        names = [m.name for m in scenario.models]
        return draw_requests(scenario.workload, scenario.limits, names, self.rate_per_s, seed)

    def chunks(self, seed: int) -> Iterator[Requests]:
        """The same requests in pieces, drawn as they are asked for."""
        scenario, left = self.scenario, self.scenario.workload.requests
        names = [m.name for m in scenario.models]
        for chunk in request_chunks(scenario.workload, scenario.limits, names, self.rate_per_s, seed):
            yield Requests(*(values[:left] for values in chunk))
            left -= len(chunk.arrival_ns)
            if left <= 0:
                return

    def action_name(self, action: int) -> str:
        """An action in words: ``run-or-load small@17``, ``evict small`` or ``wait``."""
        levels = self.levels[2]
        names = [m.name for m in self.scenario.models]
        if action == self.actions - 1:
            return "wait"
        if action >= self.models * levels:
            return f"evict {names[action - self.models * levels]}"
        model, level = divmod(action, levels)
        return f"{names[model]}@{self.gpu_layers[model][level]}"

    def describe(self, state: State) -> str:
        """One line per device: its residents and what it does."""
        verbs = {IDLE: "asks", WAIT: "waits", RUN: "runs", LOAD: "loads", EVICT: "evicts"}
        names = [m.name for m in self.scenario.models]
        clock = state.clock[0]
        lines = [f"t = {clock['now_ns'] * 1e-9:.3f} s, {clock['in_system']} requests in the system"]
        for d, device in enumerate(self.scenario.devices):
            resident, now = state.place["resident"][d], state.device[d]
            held = [
                f"{name}@{self.gpu_layers[m][resident[m]]}"
                for m, name in enumerate(names)
                if resident[m] >= 0
            ]
            verb = verbs[int(now["op_kind"])]
            object_ = names[now["op_model"]] if now["op_kind"] in (RUN, LOAD, EVICT) else ""
            lines.append(f"{device.name}: [{', '.join(held)}] {verb} {object_}".rstrip())
        return "\n".join(lines)


def make_world(
    scenario: str | Path | Scenario | None, performance: str | Path | PerformanceModel | None
) -> World:
    """Compiles a scenario with a performance model.

    Raises:
        InputError: Either is missing, a device holds no model at any level, or the performance model has
            no measurements of a device.
        UnknownNameError: A model was neither profiled nor has a checkpoint.
    """
    for field, given in (("scenario", scenario), ("performance", performance)):
        if given is None:
            raise InputError(field, "be given", given)
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario)  # type: ignore[arg-type]
    if not isinstance(performance, PerformanceModel):
        performance = PerformanceModel.load(performance)  # type: ignore[arg-type]
    tabulation = Tabulation(scenario, performance)
    workload, service_s = scenario.workload, tabulation.service_s
    rate_per_s = workload.rate_per_s or (workload.load or 0.0) * float((1.0 / service_s).sum())
    if rate_per_s == 0.0:
        rate_per_s = replay_rate_per_s(workload)
    return World(
        scenario,
        tabulation.tables,
        tabulation.gpu_layers,
        rate_per_s,
        service_s,
        tabulation.interpolation_error,
    )


def with_footprints(world: World, footprint_bytes: Array) -> World:
    """A world in which no resident takes less device memory than given.

    Args:
        world: The compiled scenario.
        footprint_bytes: (devices, models, levels); entries of levels that do not exist are not read.

    Raises:
        InputError: A device then holds no model, or a model fits no device.
    """
    tables = world.tables
    exists = existing_levels(world.gpu_layers, world.devices)
    footprint = np.where(exists, np.maximum(tables.footprint_bytes, footprint_bytes), tables.footprint_bytes)
    check_fits(world.scenario, exists, footprint)
    level_ok = exists & (footprint <= tables.capacity_bytes[:, None, None])
    return replace(world, tables=tables.changed(footprint_bytes=footprint, level_ok=level_ok))
