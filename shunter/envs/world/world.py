"""A scenario compiled with a performance model: the tables that the dynamics run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.envs.rules.guard import Rotation, rotation
from shunter.envs.scenario.fields import checked
from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.objective import with_objective
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.scenario.workload import Workload
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import Requests, State, empty_state
from shunter.envs.state.tables import Tables
from shunter.envs.workload.draw import draw_requests, episode_chunks
from shunter.envs.workload.lengths import mean_lengths
from shunter.envs.workload.notes import trace_file
from shunter.envs.workload.replay import look_again, replay_rate_per_s
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.asleep import kept_asleep_bytes
from shunter.envs.world.residents import with_residents
from shunter.envs.world.tabulation import Tabulation, check_fits, existing_levels
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import open_performance, published_performance
from shunter.models.state import ProfiledWork

__all__ = [
    "World",
    "load_note",
    "load_performance",
    "make_world",
    "sleep_note",
    "with_absolute_paths",
    "with_footprints",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Everything that an episode needs.

    Attributes:
        scenario: What was asked for.
        tables: Predicted durations and sizes.
        gpu_layers: For each model, gpu_layers of its levels, most on the device first.
        rate_per_s: Mean arrivals per second; in a closed loop what its users would send if answered at once.
        service_s: (devices,) seconds of a mean request run alone on a loaded device.
        interpolation_error: Largest relative error of the tables midway between their grid points, against
            direct predictions.
        performance_digest: Names the performance model that predicted; empty if it is not known.
        profiled: What its profile measured of small pieces of work, by device, model and level.
        wakes_published: Whether models sleep, and what waking them takes was published, not measured.
    """

    scenario: Scenario
    tables: Tables
    gpu_layers: tuple[tuple[int, ...], ...]
    rate_per_s: float
    service_s: Array
    interpolation_error: float = 0.0
    performance_digest: str = ""
    profiled: Mapping[tuple[int, int, int], ProfiledWork] = field(default_factory=dict)
    wakes_published: bool = False

    def __deepcopy__(self, memo: dict[int, object]) -> World:
        return self  # nothing in it ever changes: copies of what holds it share it

    def content(self) -> bytes:
        """All that its episodes depend on - scenario, rate, every table - for digests."""
        tables = [np.ascontiguousarray(table).tobytes() for table in self.tables]
        return b"".join([self.scenario.model_dump_json().encode(), repr(self.rate_per_s).encode(), *tables])

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
        """Requests that one resident decodes at once, at most of any model."""
        return max(self.scenario.batch_of(model) for model in self.scenario.models)

    @property
    def drains(self) -> bool:
        """Whether running requests can only end, as on servers."""
        return self.scenario.limits.preemption == "drain"

    @property
    def entries(self) -> int:
        """Requests that one device may run at once: a batch, or one of every model where servers drain."""
        return self.max_batch * (self.models if self.drains else 1)

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
    def late_s(self) -> float:
        """Ten times what an episode should take: only who leaves requests waiting for good takes so long."""
        expected_s = self.scenario.workload.requests / self.rate_per_s + 10 * self.time_scale_s
        return 10 * expected_s

    @property
    def levels(self) -> tuple[int, int, int]:
        """Number of devices, of models, and of levels of the model that has most."""
        devices, models, levels = self.tables.level.shape
        return devices, models, levels

    @property
    def guard_s(self) -> float:
        """How long a request waits before its model goes first, see ``rules.guard``; inf: off."""
        guard_ns = int(self.tables.guard_ns[0])
        return float("inf") if guard_ns == FAR_NS else guard_ns * 1e-9

    @property
    def guard_feasible(self) -> bool:
        """Whether the guard can be kept for all: every model has its turn within it.

        Otherwise more arrives than is served within the guard: whoever has waited longest goes first, and
        each load serves all who wait for it, but waits may become longer than the guard.
        """
        return self.rotation.sustains(self.guard_s)

    @property
    def rotation(self) -> Rotation:
        """What serving all models in turn takes at this rate."""
        workload = self.scenario.workload
        lengths, share = mean_lengths(self.scenario), shares_of(self.scenario)
        users = None if workload.closed_loop is None else workload.closed_loop.users
        unsteady = workload.arrivals.unsteady
        return rotation(self.tables, lengths, share, self.rate_per_s, unsteady=unsteady, users=users)

    def with_guard(self, guard_s: float | str | None) -> World:
        """The same world with another guard.

        Args:
            guard_s: Seconds, ``auto`` (what the world can sustain), or ``off`` or None.

        Raises:
            InputError: It is neither.
        """
        asked = {**self.scenario.limits.model_dump(), "guard_s": "off" if guard_s is None else guard_s}
        limits = checked(Limits, asked, source="limits", whole="limits")
        scenario = self.scenario.model_copy(update={"limits": limits})
        return _guarded(replace(self, scenario=scenario))

    def at_rate(self, rate_per_s: float) -> World:
        """The same world with so many arrivals per second; a guard that the scenario leaves open follows."""
        return _guarded(replace(self, rate_per_s=rate_per_s))

    def rate_at(self, load: float) -> float:
        """Mean arrivals per second at a load, as ``Workload.load`` defines it."""
        return _at_load(load, self.scenario.workload, self.service_s)

    def at_load(self, load: float) -> World:
        """The same world with requests arriving at another load.

        Raises:
            InputError: The workload is a closed loop, whose requests arrive at no rate of their own.
        """
        workload = self.scenario.workload
        if workload.closed_loop is not None:
            raise InputError("load", "not be given in a closed loop: its users set the pace", load)
        changed = workload.model_copy(update={"load": load, "rate_per_s": None})
        scenario = self.scenario.model_copy(update={"workload": changed})
        return replace(self, scenario=scenario).at_rate(self.rate_at(load))

    def draw(self, seed: int) -> Requests:
        """Draws the requests of one episode."""
        return draw_requests(*self._drawn_from, seed)

    def chunks(self, seed: int) -> Iterator[Requests]:
        """The same requests in pieces, drawn as they are asked for."""
        return episode_chunks(*self._drawn_from, seed)

    @property
    def _drawn_from(self) -> tuple[Workload, Limits, list[Model], float]:
        scenario = self.scenario
        return scenario.workload, scenario.limits, scenario.models, self.rate_per_s

    def states_of(
        self,
        drawn: Sequence[Requests],
        *,
        slots: int | None = None,
        outcomes: bool = True,
        luck: Sequence[int] = (),
    ) -> State:
        """States of episodes side by side that are yet to begin: each holds all of its requests.

        Args:
            drawn: Requests of each episode.
            slots: Requests in the system that each has room for; by default all of an episode.
            outcomes: Whether all requests' outcomes are kept.
            luck: A seed for each episode of how far durations are from the predicted ones, where they are.
        """
        count = max(len(requests.arrival_ns) for requests in drawn)
        state = empty_state(
            (len(drawn),),
            self.levels,
            self.entries,
            slots=slots or count,
            ring=count,
            outcomes=count if outcomes else 0,
            first_sends_ns=self.scenario.workload.first_sends_ns(),
        )
        for e, requests in enumerate(drawn):
            for name, values in zip(Requests._fields, requests, strict=True):
                state.ring[name][e, : len(values)] = values
            state.clock["filled"][e] = state.clock["length"][e] = len(requests.arrival_ns)
        if len(luck):
            state.clock["key"][:, 0] = [int(seed) % 2**63 for seed in luck]
        return state

    def state_of(self, requests: Requests) -> State:
        """The state of one episode that holds all of its requests, and keeps all their outcomes."""
        state = self.states_of([requests]).of(0)
        state.clock["last"] = state.clock["length"]
        return state

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


def make_world(
    scenario: str | Path | Scenario | Mapping[str, Any] | None,
    performance: str | Path | PerformanceModel | None = None,
    *,
    field: str = "--scenario",
) -> World:
    """Compiles a scenario with a performance model.

    Args:
        scenario: A file, a name of the library, a scenario, or its data (``model_dump(mode="json")``).
        performance: A file or folder, ``published``, or a model. None: ``published``, where all devices are
            GPUs of the catalogue.
        field: What a file or a name of the library was given as.

    Raises:
        InputError: Either is missing, a device holds no model at any level, there is no room for what is
            pinned or preloaded, or the performance model has no measurements of a device.
        UnknownNameError: A model was neither profiled nor has a checkpoint or an entry of the catalogue.
    """
    if scenario is None:
        raise InputError("scenario", "be given", scenario)
    if isinstance(scenario, Mapping):
        scenario = Scenario.parse(dict(scenario))
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(_path(field.removeprefix("--"), scenario), field=field)
    for file in {trace_file(scenario.workload, model) for model in scenario.models}:
        if file is not None:
            look_again(file)
    performance = load_performance(scenario, performance)
    tabulation = Tabulation(scenario, performance)
    names = [device.name for device in scenario.devices]
    world = World(
        scenario,
        with_objective(tabulation.tables, scenario.objective, names),
        tabulation.gpu_layers,
        _rate_per_s(scenario.workload, tabulation.service_s),
        tabulation.service_s,
        tabulation.interpolation_error,
        performance.digest,
        tabulation.profiled,
        tabulation.wakes_published,
    )
    return _guarded(world)


def _guarded(world: World) -> World:
    """The world with the guard that its scenario asks for."""
    asked = world.scenario.limits.guard_s
    if asked == "off":
        guard_ns = FAR_NS
    else:
        guard_ns = round((world.rotation.guard_s if asked == "auto" else float(asked)) * 1e9)
    return replace(world, tables=world.tables.changed(guard_ns=guard_ns))


def load_performance(
    scenario: Scenario, given: str | Path | PerformanceModel | None = None
) -> PerformanceModel:
    """The performance model to compile a scenario with; see ``make_world``.

    Raises:
        InputError: None was given, and not all devices are GPUs of the catalogue; or it is not there.
    """
    if isinstance(given, PerformanceModel):
        return given
    if given is None and any(device.gpu is None for device in scenario.devices):
        raise InputError("performance", "be given: not all devices are GPUs of the catalogue", given)
    return published_performance() if given is None else open_performance(_path("performance", given))


def _path(field: str, given: Any) -> str | Path:
    if not isinstance(given, str | Path):
        raise InputError(field, "be a path, a name, or what is read from it", given)
    return given


def load_note(world: World) -> str | None:
    """What a load is a share of, in words, where no capacity was measured; else None.

    Args:
        world: Its scenario may say a load.
    """
    workload = world.scenario.workload
    if workload.load is None or workload.capacity_rate_per_s is not None:
        return None
    return (
        f"load {workload.load:g} is here {world.rate_per_s:.4g} requests/s, a share of what devices could "
        "serve one request at a time: no capacity was measured (shunter scenarios check --write does)"
    )


def sleep_note(world: World) -> str | None:
    """Where the times that waking takes come from, in words, where models sleep and it was not measured."""
    if not world.wakes_published:
        return None
    level = world.scenario.limits.sleep
    return (
        f"what falling asleep and waking take (limits.sleep: {level}) is as others published it, not measured"
    )


def _at_load(load: float, workload: Workload, service_s: Array) -> float:
    return load * (workload.capacity_rate_per_s or float((1.0 / service_s).sum()))


def _rate_per_s(workload: Workload, service_s: Array) -> float:
    if workload.rate_per_s is not None:
        return workload.rate_per_s
    if workload.closed_loop is not None:
        return workload.closed_loop.users / workload.closed_loop.think_s
    if workload.load is None:
        return replay_rate_per_s(workload)
    return _at_load(workload.load, workload, service_s)


def with_absolute_paths(world: World) -> World:
    """The world with its trace files named as any process finds them, whatever its working folder."""
    workload = world.scenario.workload.relative_to(Path.cwd())
    return replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))


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
    kept = kept_asleep_bytes(world.scenario.limits, footprint)
    changed = tables.changed(footprint_bytes=footprint, level_ok=level_ok, asleep_bytes=kept)
    return replace(world, tables=with_residents(world.scenario, changed))
