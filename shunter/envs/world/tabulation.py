"""Tables for the dynamics: a performance model asked for every configuration of a scenario, once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.work import EXPERT_LAYERS_ON_HOST, experts_kept_on_host_bytes, reserved_kv_bytes
from shunter.envs.rules.guard import at_lengths
from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.state.tables import Tables, make_tables
from shunter.envs.workload.lengths import mean_lengths, pairs_by_model, remaining_by_model
from shunter.envs.workload.notes import warn_of_traces
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.asleep import with_sleep
from shunter.envs.world.load_times import predicted_for
from shunter.envs.world.residents import with_residents
from shunter.errors import InputError, UnknownNameError
from shunter.models.assumed import AssumedPerformance
from shunter.models.performance import PerformanceModel
from shunter.models.physics import UBATCH_TOKENS
from shunter.models.physics.features import MOST_UNEVEN_TOKENS
from shunter.models.published.rows import catalog_facts
from shunter.models.state import ProfiledWork
from shunter.profiling.sweep.plan import model_facts

__all__ = ["Tabulation", "existing_levels", "facts_of_model", "mean_work_s"]

Array = NDArray[np.float64]

TOLERANCE = 0.01
"""Relative error of interpolation at which the grid of token counts is fine enough."""
FIRST_POINTS, MOST_POINTS = 7, 49
MOST_STEPS = 16
"""Steps of prefill, up to which the grid has both sides of each."""
_TABLE_OF = {"prefill": "prefill_s", "decode": "step_s", "kv_save": "kv_save_s", "kv_restore": "kv_restore_s"}


def existing_levels(gpu_layers: tuple[tuple[int, ...], ...], devices: int) -> NDArray[np.bool_]:
    """Which levels exist, (devices, models, levels): models may have fewer than the most."""
    exists = np.zeros((devices, len(gpu_layers), max(map(len, gpu_layers))), np.bool_)
    for m, levels in enumerate(gpu_layers):
        exists[:, m, : len(levels)] = True
    return exists


def check_fits(scenario: Scenario, exists: NDArray[np.bool_], footprint: Array) -> None:
    """Checks that every device holds some model and every model fits some device.

    Args:
        scenario: Scenario that names devices and models, and gives memory budgets.
        exists: (devices, models, levels) bool, which levels a model has on a device.
        footprint: (devices, models, levels) bytes that a model takes at each level.

    Raises:
        InputError: One does not; says what the smallest needs.
    """
    sizes = np.where(exists, footprint, np.inf)
    capacity = np.array([float(d.memory_bytes) for d in scenario.devices])
    for d, device in enumerate(scenario.devices):
        if sizes[d].min() > capacity[d]:
            rule = f"hold at least one model at one level: the smallest needs {sizes[d].min() / 1e6:.0f} MB"
            raise InputError(f"devices.{device.name}", rule, device.text)
    for m, model in enumerate(scenario.models):
        if (sizes[:, m] > capacity[:, None]).all():
            rule = f"fit some device at some level: it needs {sizes[:, m].min() / 1e6:.0f} MB"
            raise InputError(f"models.{model.name}", rule, [d.text for d in scenario.devices])


def mean_work_s(tables: Tables, lengths: Array) -> Array:
    """Seconds of a request of mean lengths run alone where its model is loaded; (devices, models, levels).

    Args:
        tables: Tables of the scenario.
        lengths: (M, 2) mean prompt and decode tokens of each model's requests, as from ``mean_lengths``.
    """
    prompt, decode = lengths.T
    prefill = at_lengths(prompt, tables.prefill_tokens, tables.prefill_s)
    step = at_lengths(prompt + decode / 2, tables.context_tokens, tables.step_s[..., 0, :])
    return np.asarray(prefill + decode[:, None] * step)


def facts_of_model(model: Model, performance: PerformanceModel) -> dict[str, Any]:
    """The dataset's model columns of a scenario's model: of its checkpoint, the catalogue, or the profile.

    KV per token is that of the scenario's ``kv_type``.

    Raises:
        UnknownNameError: It was neither profiled nor has a checkpoint or an entry of the catalogue.
    """
    facts = _facts_at_f16(model, performance)
    on_host = model.expert_layers_on_host(int(facts["layers"]))
    if on_host:
        facts = {**facts, EXPERT_LAYERS_ON_HOST: on_host}
    if model.kv_share == 1.0:
        return facts
    return {**facts, "kv_bytes_per_token": facts["kv_bytes_per_token"] * model.kv_share}


def _facts_at_f16(model: Model, performance: PerformanceModel) -> dict[str, Any]:
    if model.checkpoint is not None and model.checkpoint.exists():
        return model_facts(read_checkpoint(model.checkpoint, field=f"models.{model.name}.checkpoint"))
    if model.catalog is not None and model.quantization is not None:
        return catalog_facts(model.catalog, model.quantization)
    known = performance.models
    if model.name not in known.index:
        raise UnknownNameError(f"models.{model.name}", model.name, known.index)
    return {"model": model.name, **{str(k): v for k, v in known.loc[model.name].items()}}


class Tabulation:
    """Asks the performance model for every configuration of the tables.

    The grid of token counts is refined until what lies between its points is interpolated to within
    ``TOLERANCE``, or it has ``MOST_POINTS``.

    Attributes:
        gpu_layers: For each model, gpu_layers of its levels, most on the device first.
        tables: What the dynamics run on.
        interpolation_error: Largest relative error midway between grid points, against direct predictions.
        wakes_published: Whether models sleep, and what waking them takes is as others published it.
        service_s: (devices,) seconds of a mean request run alone on a loaded device.
        lengths: (models, 2) mean prompt and decode tokens of each model's requests.

    Raises:
        InputError: A device holds no model, a model fits no device, or something was not profiled.
        UnknownNameError: A model was neither profiled nor has a checkpoint or an entry of the catalogue.
    """

    def __init__(self, scenario: Scenario, performance: PerformanceModel) -> None:
        self.scenario = scenario
        self.performance = performance
        self.facts = [facts_of_model(model, performance) for model in scenario.models]
        self.gpu_layers = tuple(
            tuple(m.gpu_layers(int(f["total_layers"])))
            for m, f in zip(scenario.models, self.facts, strict=True)
        )
        if not isinstance(performance, AssumedPerformance):  # which takes all from sizes, KV's too
            _check_kv_types(scenario)
        warn_of_traces(scenario)
        self.pairs = pairs_by_model(scenario.workload, scenario.limits, scenario.models)
        self.lengths = mean_lengths(scenario)
        self.batches = np.arange(1, max(map(scenario.batch_of, scenario.models)) + 1)
        self.most_tokens = max(map(scenario.context_of, scenario.models))
        self.shape = (len(scenario.devices), len(scenario.models), max(map(len, self.gpu_layers)))
        names = [device.hardware_name for device in scenario.devices]
        self.hardware = list(dict.fromkeys(names))
        self.hardware_of = np.array([self.hardware.index(name) for name in names])
        engines = [scenario.engine_of(model) for model in scenario.models]
        self.saves_kv = np.array([[performance.saves_kv(e, name) for e in engines] for name in names])
        self.saves_kv &= scenario.limits.preemption == "save"
        tables, self.interpolation_error = self._refined()
        self.tables, self.wakes_published = with_sleep(self, with_residents(scenario, tables))
        self.service_s = self._service_s(self.tables)

    @property
    def profiled(self) -> dict[tuple[int, int, int], ProfiledWork]:
        """What was measured of small pieces of work, by device, model and level."""
        found: dict[tuple[int, int, int], ProfiledWork] = {}
        for one in self.performance.profiled:
            sizes = self.performance.state_.models[one.model]
            for d, device in enumerate(self.scenario.devices):
                for m, (model, facts) in enumerate(zip(self.scenario.models, self.facts, strict=True)):
                    same = all(facts[name] == sizes[name] for name in ("params", "weight_bytes"))
                    where = (self.scenario.engine_of(model), device.hardware_name)
                    if same and where == (one.engine, one.device) and one.gpu_layers in self.gpu_layers[m]:
                        found[d, m, self.gpu_layers[m].index(one.gpu_layers)] = one
        return found

    def _refined(self) -> tuple[Tables, float]:
        points = FIRST_POINTS
        while True:
            self.context_grid = self._grid(points)
            self.prompt_grid = self._with_uneven(self.context_grid)
            configurations = self.configurations(self.context_grid, self.prompt_grid)
            predicted = predicted_for(self.scenario.limits, self.performance, configurations)
            tables = self._tables(configurations, predicted)
            error = self._interpolation_error(tables)
            if error <= TOLERANCE or points >= MOST_POINTS:
                return tables, error
            points = 2 * points - 1

    def _grid(self, points: int) -> Array:
        """Token counts; with both sides of the steps that prefill has on data sheets, if these are few."""
        most = self.most_tokens
        grid = np.geomspace(1, most, points).round()
        steps = np.arange(UBATCH_TOKENS, most, UBATCH_TOKENS)
        if len(steps) <= MOST_STEPS and any(device.gpu for device in self.scenario.devices):
            grid = np.concatenate([grid, steps, steps + 1])
        return np.unique(grid)

    def _with_uneven(self, grid: Array) -> Array:
        """Every short prompt too, where a device has no data sheet: one token more may cost less."""
        if all(device.gpu for device in self.scenario.devices):
            return grid
        most = min(MOST_UNEVEN_TOKENS + 1, self.most_tokens)
        return np.union1d(grid, np.arange(1, most + 1))

    def _interpolation_error(self, tables: Tables) -> float:
        """Largest relative error midway between grid points."""
        contexts, prompts = _middle(self.context_grid), _middle(self.prompt_grid)
        configurations = self.configurations(contexts, prompts)
        direct_s = self.performance.predict(configurations)["duration_s_mean"].to_numpy(dtype=np.float64)
        first = np.array([list(self.hardware_of).index(h) for h in range(len(self.hardware))])
        worst = 0.0
        for operation, table in _TABLE_OF.items():
            rows = np.flatnonzero(configurations.operation == operation)
            values = getattr(tables, table)
            is_prefill = operation == "prefill"
            grid, middle = (self.prompt_grid, prompts) if is_prefill else (self.context_grid, contexts)
            weight = (middle - grid[:-1]) / np.diff(grid)
            between = values[..., :-1] * (1 - weight) + values[..., 1:] * weight
            axes = ("m", "l", "b", "k") if operation == "decode" else ("m", "l", "k")
            device = first[configurations["h"].to_numpy()[rows]]
            interpolated_s = between[(device, *(configurations[axis].to_numpy()[rows] for axis in axes))]
            error = np.abs(interpolated_s - direct_s[rows]) / np.maximum(direct_s[rows], 1e-6)
            worst = max(worst, float(error.max(initial=0.0)))
        return worst

    def configurations(self, contexts: Array, prompts: Array) -> pd.DataFrame:
        """All that is asked of the performance model; ``h``, ``m``, ``l``, ``b`` and ``k`` say where it goes.

        Args:
            contexts: Token counts of KV copies and of contexts.
            prompts: Token counts of prefills.
        """
        rows: list[dict[str, Any]] = []
        for h, hardware in enumerate(self.hardware):
            saves_kv = self.saves_kv[int(np.flatnonzero(self.hardware_of == h)[0])]
            for m, facts in enumerate(self.facts):
                operations = self._operations(bool(saves_kv[m]), contexts, prompts)
                for level, gpu_layers in enumerate(self.gpu_layers[m]):
                    base = {
                        **facts,
                        **self._where(hardware, self.scenario.models[m]),
                        "h": h,
                        "m": m,
                        "l": level,
                        "gpu_layers": gpu_layers,
                    }
                    rows += [{**base, **configuration} for configuration in operations]
        frame = pd.DataFrame(rows)
        frame["offload_ratio"] = 1 - frame.gpu_layers / frame.total_layers
        return frame

    def _where(self, hardware: str, model: Model) -> dict[str, Any]:
        bytes_per_s = self.scenario.limits.host_bandwidth_bytes_per_s
        host = {} if bytes_per_s is None else {"host_bandwidth_bytes_per_s": bytes_per_s}
        return {
            "engine": self.scenario.engine_of(model),
            "device": hardware,
            "page_cache": "warm",
            "max_batch": self.scenario.batch_of(model),
            "max_context_tokens": self.scenario.context_of(model),
            **host,
        }

    def _operations(self, saves_kv: bool, contexts: Array, prompts: Array) -> list[dict[str, Any]]:
        blank = {"batch": 1, "tokens": 0, "context_tokens": 0.0, "b": 0, "k": 0}
        configurations = [{**blank, "operation": "load"}, {**blank, "operation": "unload"}]
        for k, tokens in enumerate(prompts):
            configurations.append({**blank, "operation": "prefill", "tokens": int(tokens), "k": k})
        for k, tokens in enumerate(contexts):
            for operation in ("kv_save", "kv_restore") if saves_kv else ():
                configurations.append({**blank, "operation": operation, "tokens": int(tokens), "k": k})
            for b, batch in enumerate(self.batches):
                decode = {"operation": "decode", "batch": int(batch), "context_tokens": float(tokens)}
                configurations.append({**blank, **decode, "b": b, "k": k})
        return configurations

    def _tables(self, configurations: pd.DataFrame, predicted: pd.DataFrame) -> Tables:
        shape, grid, prompts = self.shape, len(self.context_grid), len(self.prompt_grid)

        def fill(operation: str, column: str, *axes: str, size: tuple[int, ...] = ()) -> Array:
            rows = (configurations.operation == operation).to_numpy()
            table = np.zeros((len(self.hardware), *shape[1:], *size))
            index = tuple(configurations.loc[rows, axis].to_numpy() for axis in ("h", "m", "l", *axes))
            table[index] = predicted.loc[rows, column].to_numpy(dtype=np.float64)
            return np.asarray(table[self.hardware_of])

        seconds = "duration_s_mean"
        step_s = fill("decode", seconds, "b", "k", size=(len(self.batches), grid))

        def halfwidth(operation: str, *axes: str, size: tuple[int, ...] = ()) -> Array:
            centre = fill(operation, "duration_s_predicted", *axes, size=size)
            width = fill(operation, "duration_s_high", *axes, size=size) - fill(
                operation, "duration_s_low", *axes, size=size
            )
            return _relative(width, centre)

        footprint = np.maximum(fill("load", "device_bytes_predicted"), self._reserved_bytes())
        capacity = np.array([float(d.memory_bytes) for d in self.scenario.devices])
        exists = existing_levels(self.gpu_layers, len(self.scenario.devices))
        level_ok = exists & (footprint <= capacity[:, None, None])
        check_fits(self.scenario, exists, footprint)
        limits = self.scenario.limits
        load_s = fill("load", seconds)

        return make_tables(
            level_ok=level_ok,
            gpu_share=self._gpu_share(),
            footprint_bytes=footprint,
            capacity_bytes=capacity,
            run_contention=np.array([device.run_contention for device in self.scenario.devices]),
            load_contention=np.array([device.load_contention for device in self.scenario.devices]),
            load_s=load_s,
            cold_load_s=self._cold_load_s(configurations, load_s),
            weight_bytes=np.array([float(f["weight_bytes"]) for f in self.facts]),
            host_bytes=np.inf if limits.host_memory_gb is None else limits.host_memory_gb * 1e9,
            unload_s=fill("unload", seconds),
            prefill_s=fill("prefill", seconds, "k", size=(prompts,)),
            prefill_tokens=self.prompt_grid,
            step_s=step_s,
            context_tokens=self.context_grid,
            kv_save_s=fill("kv_save", seconds, "k", size=(grid,)),
            kv_restore_s=fill("kv_restore", seconds, "k", size=(grid,)),
            remaining_tokens=remaining_by_model(self.pairs),
            load_halfwidth=halfwidth("load"),
            prefill_halfwidth=halfwidth("prefill", "k", size=(prompts,)),
            step_halfwidth=halfwidth("decode", "b", "k", size=(len(self.batches), grid)),
            offload_sensitivity=_sensitivity(step_s, exists),
            kv_can_save=self.saves_kv[:, :, None],
            **_counts(limits),
            max_batch=[self.scenario.batch_of(model) for model in self.scenario.models],
            oracle=np.array([0], np.int64),
            time_scale_s=np.array([self._time_scale_s(load_s, step_s, exists)]),
        )

    def _cold_load_s(self, configurations: pd.DataFrame, load_s: Array) -> Array:
        """Loads from disk, where the host's memory is limited: else nobody asks for them."""
        if self.scenario.limits.host_memory_gb is None:
            return load_s
        loads = configurations[configurations.operation == "load"].assign(page_cache="cold")
        cold_s = np.zeros((len(self.hardware), *self.shape[1:]))
        predicted_s = predicted_for(self.scenario.limits, self.performance, loads).duration_s_mean
        cold_s[loads.h, loads.m, loads.l] = predicted_s.to_numpy(dtype=np.float64)
        return np.asarray(cold_s[self.hardware_of])

    def _reserved_bytes(self) -> Array:
        """Weights and the KV of a full batch: what an engine sets aside, whether or not it was touched."""
        reserved = np.zeros(self.shape)
        for m, (model, facts) in enumerate(zip(self.scenario.models, self.facts, strict=True)):
            context_tokens, requests = self.scenario.context_of(model), self.scenario.batch_of(model)
            is_f32 = facts.get("checkpoint_format") == "safetensors" and facts.get("quantization") == "F32"
            kv_bytes = reserved_kv_bytes(facts, context_tokens, requests) * (2 if is_f32 else 1)
            whole = facts["weight_bytes"] + kv_bytes
            for level, gpu_layers in enumerate(self.gpu_layers[m]):
                on_host = experts_kept_on_host_bytes(facts, gpu_layers)
                reserved[:, m, level] = whole * gpu_layers / facts["total_layers"] - on_host
        return reserved

    def _gpu_share(self) -> Array:
        share = np.zeros(self.shape[1:])
        for m, levels in enumerate(self.gpu_layers):
            share[m, : len(levels)] = np.array(levels) / self.facts[m]["total_layers"]
        return share

    def _service_s(self, tables: Tables) -> Array:
        work = mean_work_s(tables, self.lengths)
        best = np.where(tables.level_ok, work, np.inf).min(axis=2)
        share = shares_of(self.scenario)
        served, held = np.where(np.isfinite(best), best, 0.0) @ share, np.isfinite(best) @ share
        # A device that holds only models that a trace never asks for serves none of its requests.
        return np.asarray(np.divide(served, held, out=np.full(len(held), np.inf), where=held > 0))

    def _time_scale_s(self, load_s: Array, step_s: Array, exists: NDArray[np.bool_]) -> float:
        decode = self.lengths[:, 1, None]
        return float((load_s + decode * step_s[..., 0, 0])[exists].mean())


def _check_kv_types(scenario: Scenario) -> None:
    """Checks that nothing is guessed of how a device does with KV of another type than was measured."""
    measured = [device.name for device in scenario.devices if device.gpu is None]
    for model in scenario.models:
        if model.kv_share != 1.0 and measured:
            rule = f"be f16: {measured[0]} was profiled with it; give devices a gpu of the catalogue"
            raise InputError(f"models.{model.name}.kv_type", rule, model.kv_type)


def _middle(grid: Array) -> Array:
    return np.sqrt(grid[:-1] * grid[1:]).round()


def _counts(limits: Limits) -> dict[str, NDArray[np.int64]]:
    """The limits that rules count in whole steps, requests and nanoseconds, as tables hold them."""
    counts = {
        "quantum_steps": limits.quantum_steps,
        "quantum_ns": limits.quantum_s * 1e9,
        "max_wait_ns": limits.max_wait_s * 1e9,
        "decision_ns": limits.decision_s * 1e9,
        "max_time_ns": limits.max_time_s * 1e9,
        "drain": limits.preemption == "drain",
    }
    return {name: np.array([round(value)], np.int64) for name, value in counts.items()}


def _relative(width: Array, centre: Array) -> Array:
    """Mean of half the width over the centre, over all axes but device, model and level."""
    share = width / 2 / np.where(centre > 0, centre, 1.0)
    return np.asarray(share.mean(axis=tuple(range(3, share.ndim))))


def _sensitivity(step_s: Array, exists: NDArray[np.bool_]) -> Array:
    """Decode step at each model's level with fewest layers on the device over that with most, minus one."""
    last = exists.sum(axis=2) - 1
    single = step_s[:, :, :, 0, 0]
    slowest = np.take_along_axis(single, np.maximum(0, last)[:, :, None], axis=2)[:, :, 0]
    return np.maximum(0.0, slowest / single[:, :, 0] - 1.0)
