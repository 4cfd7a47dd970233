"""llama-server on the loopback device: measured, predicted, trained for and served, stage by stage.

What a stage has written it does not do again, so that a killed benchmark goes on.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.fidelity_place import FIRST_SEED, Place, Scale, Site
from benchmarks.serve_site import events_of
from shunter.agents.base import Policy
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.state.state import Requests
from shunter.envs.world.world import World, make_world, with_footprints
from shunter.eval.execution.runs import simulate
from shunter.eval.metrics.capacity import SEEDS as CAPACITY_SEEDS
from shunter.eval.metrics.capacity import capacity
from shunter.models.performance import PerformanceModel
from shunter.serve.boundary import Launch, Server
from shunter.serve.gateway.gateway import Gateway, GatewaySettings
from shunter.serve.gateway.launches import launch_of
from shunter.serve.gateway.record import Recorder
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import listen
from shunter.serve.http.settings import HttpSettings
from shunter.serve.servers.making import make_server
from shunter.serve.servers.starting import ServerSettings
from shunter.train.algorithms import train_policy
from shunter.train.settings import EvolutionSettings

__all__ = ["LEARNED", "POLICIES", "Cell", "ServePlace", "ServeScale", "served_s", "simulated_s"]

POLICIES = ("fifo-swap", "lru-keepalive", "cost-greedy", "learned")
LEARNED = "learned"
SHARE = 0.6
"""Of the largest rate that fifo-swap sustains: where its queues grow, a mean tells how long a run was."""

STARTS = 3
"""Starts of each server that are timed, after one that has the file read from the disk."""

SITE = Site("llama-cpp", "loopback:1-threads-cores-0", "gguf", "Q8_0", ("all", "50%"))
SCENARIO = Path(__file__).parent / "scenarios" / "serve-llama-cpp.yaml"
TOKEN_IDS = (10, 250)
"""Token ids of prompts are between: every synthetic checkpoint has as many."""


@dataclass(frozen=True)
class ServeScale:
    """How much is done.

    Attributes:
        profile_s: Budget of the sweep.
        train_s: Time after which training ends.
        requests: Requests of a run.
        sequences: Request sequences.
        repeats: Runs of the first sequence, for every policy.
        capacity_requests: Requests of a run that measures the capacity; None: its default.
        capacity_seeds: Sequences of that measurement.
    """

    profile_s: float
    train_s: float
    requests: int
    sequences: int
    repeats: int
    capacity_requests: int | None
    capacity_seeds: int


@dataclass(frozen=True)
class Cell:
    """One run in the gateway.

    Attributes:
        policy: Its name.
        seed: Seed of the requests.
        repeat: Number among the runs of this policy on this sequence.
    """

    policy: str
    seed: int
    repeat: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.policy}-{self.seed}-{self.repeat}"


class ServePlace(Place):
    """The scenario on llama-server, and what was made of it.

    Args:
        folder: For all files.
        scale: How much is done.
        llama_server: Path of the binary.
        say: Prints a line.
        site: The engine.
    """

    names: tuple[str, ...] = POLICIES
    """Policies that serve."""

    def __init__(
        self, folder: Path, scale: ServeScale, llama_server: str, say: Any, site: Site = SITE
    ) -> None:
        profiling = Scale(
            profile_s=scale.profile_s,
            train_s=scale.train_s,
            real_s=0.0,
            requests=scale.requests,
            most_requests=scale.requests,
            repeats=scale.repeats,
            capacity_requests=scale.capacity_requests,
            capacity_seeds=scale.capacity_seeds,
        )
        super().__init__(site, folder, profiling, None, say)
        self.serving = scale
        self.settings = ServerSettings(state_dir=folder / "state", llama_server=llama_server)

    @property
    def scenario_file(self) -> Path:
        """The committed file."""
        return SCENARIO

    @property
    def served_folder(self) -> Path:
        """What clients saw, a file for each run of so many requests."""
        return self.folder / f"served-{self.serving.requests}"

    async def prepared(self) -> World:
        """Checkpoints, profile, fit, starts, rate and the learned policy; the world that comes of it."""
        self._checkpoints()
        for name, stage in (("profile", self._profile), ("fit", self._fit)):
            await asyncio.to_thread(self._timed, name, stage)
        if not (self.folder / "starts.json").exists():
            begun_s = time.monotonic()
            found = await self._starts()
            (self.folder / "starts.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
            self.say(f"servers' starts took {time.monotonic() - begun_s:.0f} s to measure")
        await self._lengths()
        await asyncio.to_thread(self._timed, "capacity", self._rate)
        if LEARNED in self.names:
            await asyncio.to_thread(self._timed, "policy", self._learn)
        return self.served_world()

    async def _lengths(self) -> None:
        """Finds out how long requests are, where the scenario does not say."""

    def served_world(self) -> World:
        """The scenario with what servers really take: memory, starts and ends."""
        world = make_world(
            load_scenario(self.folder / "scenario.yaml"), PerformanceModel.load(self.folder / "perf")
        )
        path = self.folder / "starts.json"
        if path.exists():
            starts = json.loads(path.read_text(encoding="utf-8"))
            world = with_footprints(world, np.array(starts["footprint_bytes"]))
            measured = ("load_s", "unload_s", "run_contention", "load_contention")
            times = {name: np.array(starts[name]) for name in measured}
            times["cold_load_s"] = times["load_s"]
            world = replace(world, tables=world.tables.changed(**times))
        workload = world.scenario.workload.model_copy(update={"requests": self.serving.requests})
        world = replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))
        rate = self.folder / "rate.json"
        return world.at_rate(json.loads(rate.read_text(encoding="utf-8"))) if rate.exists() else world

    def served_policies(self) -> dict[str, Policy]:
        """The policies by name."""
        return {name: self._learned() if name == LEARNED else make_policy(name) for name in self.names}

    def _learned(self) -> Policy:
        learned = LearnedPolicy.load(self.folder / "policy.safetensors")
        learned.name = LEARNED
        return learned

    def cells(self) -> list[Cell]:
        """Runs in order: interleaved over policies, and in another order for each sequence."""
        seeds = range(FIRST_SEED, FIRST_SEED + self.serving.sequences)
        rounds = [(seed, 0) for seed in seeds]
        rounds += [(FIRST_SEED, repeat) for repeat in range(1, self.serving.repeats)]
        return [
            Cell(self.names[(n + i) % len(self.names)], seed, repeat)
            for n, (seed, repeat) in enumerate(rounds)
            for i in range(len(self.names))
        ]

    async def serve(self, world: World) -> None:
        """Makes all runs that are not there."""
        folder = self.served_folder
        folder.mkdir(exist_ok=True)
        policies, cells = self.served_policies(), self.cells()
        left = [cell for cell in cells if not (folder / f"{cell.name}.json").exists()]
        if left:  # code that is not compiled yet, and files that are not in memory, are nobody's fault
            await self._served(world, policies["cost-greedy"], FIRST_SEED - 1, "warm", most=4)
        for done, cell in enumerate(left, 1):
            begun_s = time.monotonic()
            found = await self._served(world, policies[cell.policy], cell.seed, cell.name)
            (folder / f"{cell.name}.json").write_text(json.dumps(found), encoding="utf-8")
            mean_s = statistics.fmean(one["finish_s"] - one["arrival_s"] for one in found)
            took_s = time.monotonic() - begun_s
            self.say(f"{done}/{len(left)} {cell.name}: {took_s:.0f} s, mean response {mean_s:.2f} s")

    def read(self, cell: Cell) -> list[dict[str, Any]]:
        """What clients saw in a run."""
        path = self.served_folder / f"{cell.name}.json"
        return list(json.loads(path.read_text(encoding="utf-8")))

    async def _served(
        self, world: World, policy: Policy, seed: int, name: str, most: int | None = None
    ) -> list[dict[str, Any]]:
        """One sequence through a gateway of its own, whose servers end with it.

        Raises:
            RuntimeError: A request got no answer, or one of another length than was drawn.
        """
        recorder = Recorder(self.folder / "records" / name, world, policy.name)
        gateway = Gateway(world, policy, partial(_made, self.settings), GatewaySettings(), recorder=recorder)
        settings = HttpSettings(port=0)
        listening = await listen(make_app(gateway, settings), settings, drain_s=1.0)
        running = asyncio.create_task(gateway.run())
        try:
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(listening.url, connector=connector, timeout=timeout) as client:
                return await self._asked(client, world, seed, most)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await gateway.stop()
            await listening.stop()

    def body(self, drawn: Requests, seed: int, number: int, model: str) -> dict[str, Any]:
        """What a client asks for as request of this number of a sequence."""
        rng = np.random.default_rng([seed, number])
        prompt = rng.integers(*TOKEN_IDS, int(drawn.prompt_tokens[number])).tolist()
        return {"model": model, "prompt": prompt, "max_tokens": int(drawn.decode_tokens[number])}

    async def _asked(
        self, client: aiohttp.ClientSession, world: World, seed: int, most: int | None
    ) -> list[dict[str, Any]]:
        """Sends a sequence as it was drawn; what clients saw, in seconds since the beginning."""
        drawn = world.draw(seed)
        begun_s = time.monotonic()

        async def one(number: int) -> dict[str, Any]:
            arrival_s = float(drawn.arrival_ns[number]) * 1e-9 if most is None else 0.0
            await asyncio.sleep(max(0.0, begun_s + arrival_s - time.monotonic()))
            model = world.scenario.models[int(drawn.model[number])].name
            body = self.body(drawn, seed, number, model)
            return {"arrival_s": arrival_s, "model": model} | await answered(client, body, begun_s)

        count = len(drawn.arrival_ns) if most is None else most
        return list(await asyncio.gather(*map(one, range(count))))

    async def _starts(self) -> dict[str, Any]:
        """Seconds of starts and ends, and memory, of every model and level, as the gateway has them.

        And how far servers slow each other down that run, or start, at once.
        """
        world = make_world(self.folder / "scenario.yaml", PerformanceModel.load(self.folder / "perf"))
        tables = world.tables
        found = {name: np.array(getattr(tables, name)) for name in ("load_s", "unload_s")}
        footprint_bytes = np.zeros_like(tables.footprint_bytes)
        for model in range(world.models):
            for level in range(len(world.gpu_layers[model])):
                loads, unloads, sizes = [], [], []
                for _ in range(1 + STARTS):
                    server = _made(self.settings, *launch_of(world, 0, model, level))
                    begun_s = time.monotonic()
                    await server.start()
                    loads.append(time.monotonic() - begun_s)
                    sizes.append(server.memory_bytes()[0])
                    begun_s = time.monotonic()
                    await server.stop()
                    unloads.append(time.monotonic() - begun_s)
                at = (0, model, level)
                found["load_s"][at] = statistics.median(loads[1:])
                found["unload_s"][at] = statistics.median(unloads[1:])
                footprint_bytes[at] = max(sizes)
        found["footprint_bytes"] = footprint_bytes
        run, load = await self._contention(world)
        found |= {"run_contention": np.array([run]), "load_contention": np.array([load])}
        return {name: values.tolist() for name, values in found.items()}

    async def _contention(self, world: World) -> tuple[float, float]:
        """How far two servers that decode slow each other down, and how far a start and one that decodes."""
        first, second = (_made(self.settings, *launch_of(world, 0, model, -1)) for model in (0, 1))
        names = [model.name for model in world.scenario.models]
        tokens = world.scenario.limits.context_tokens // 2
        await first.start()
        starts: dict[bool, list[float]] = {False: [], True: []}
        decodes: list[float] = []
        try:
            for n in range(2 * STARTS):
                beside = n % 2 == 1
                answer = asyncio.create_task(_decode_s(first, names[0], tokens)) if beside else None
                begun_s = time.monotonic()
                await second.start()
                starts[beside].append(time.monotonic() - begun_s)
                if answer is not None:
                    await answer
                asked = [(first, names[0]), (second, names[1])]
                alone = [await _decode_s(*one, tokens) for one in asked]
                both = await asyncio.gather(*(_decode_s(*one, tokens) for one in asked))
                # What they get done while both run, in seconds alone; the rest of the longer it does alone.
                done_s = sum(alone) - (max(both) - min(both))
                decodes.append(2 * min(both) / done_s - 1.0)
                await second.stop()
        finally:
            await first.stop()
            await second.stop()
        slower = statistics.median(starts[True]) / statistics.median(starts[False]) - 1.0
        return float(np.clip(statistics.median(decodes), 0.0, 1.0)), float(np.clip(slower, 0.0, 1.0))

    def _rate(self) -> None:
        """Arrivals per second: a share of what fifo-swap sustains."""
        scale = self.serving
        found = capacity(
            self.served_world(),
            [make_policy("fifo-swap")],
            CAPACITY_SEEDS[: scale.capacity_seeds],
            requests=scale.capacity_requests,
        )
        (self.folder / "rate.json").write_text(json.dumps(SHARE * found.rate_per_s), encoding="utf-8")
        self.say(f"fifo-swap sustains {found.rate_per_s:.3g} requests/s; {SHARE:g} of it come")

    def _learn(self) -> None:
        """Trains in the mode of servers, from plain cost-greedy: the tuned one was tuned for another mode."""
        plain = CostGreedy()
        prior = BasePolicy(load_weight=plain.load_weight, reload_weight=plain.reload_weight)
        start = LearnedPolicy("start", untrained_weights(prior), {})
        settings = EvolutionSettings(minutes=self.serving.train_s / 60, noise=True)
        result = train_policy(self.served_world(), settings, start=start)
        result.policy.save(self.folder / "policy.safetensors")


def _made(settings: ServerSettings, engine: str, launch: Launch) -> Server:
    return make_server(engine, launch, settings)


async def _decode_s(server: Server, model: str, tokens: int) -> float:
    """Seconds of a server's decode steps, so many."""
    body = {"model": model, "prompt": [TOKEN_IDS[0]] * 8, "max_tokens": tokens}
    connector = aiohttp.TCPConnector(force_close=True)  # a server closes what is idle, unseen
    async with aiohttp.ClientSession(server.url, connector=connector) as client:
        answer = await answered(client, body, 0.0)
    return float(answer["finish_s"] - answer["first_s"])


async def answered(client: aiohttp.ClientSession, body: dict[str, Any], begun_s: float) -> dict[str, Any]:
    """Asks and waits for the whole answer, streamed; what the client saw.

    Args:
        client: Asks.
        body: A completion that is to be as long as ``max_tokens``, or a chat, which ends where it does.
        begun_s: Monotonic time from which the result counts seconds.

    Raises:
        RuntimeError: The answer does not come.
    """
    is_chat = "messages" in body
    more = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": not is_chat}
    more |= {"temperature": 0, "cache_prompt": False}
    first_s, said = 0.0, b""
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    async with client.post(path, json=body | more) as answer:
        async for piece in answer.content.iter_any():
            if not first_s and b"data:" in piece:
                first_s = time.monotonic() - begun_s
            said += piece
    finish_s = time.monotonic() - begun_s
    usage = [one["usage"] for one in events_of(said) if one.get("usage")]
    is_whole = bool(usage) and (is_chat or usage[-1]["completion_tokens"] == body["max_tokens"])
    if answer.status != 200 or not is_whole:
        raise RuntimeError(f"status {answer.status}, usage {usage}, {said[-300:]!r}")
    tokens = {name: int(usage[-1][f"{name}_tokens"]) for name in ("prompt", "completion")}
    return {"first_s": first_s, "finish_s": finish_s} | tokens


def served_s(found: Sequence[dict[str, Any]]) -> float:
    """Mean response that clients saw."""
    return statistics.fmean(one["finish_s"] - one["arrival_s"] for one in found)


def simulated_s(world: World, policy: Policy, seed: int) -> float:
    """Mean response in simulation, on the same sequence."""
    requests = simulate(world, policy, seed).requests
    return float((requests.finish_s - requests.arrival_s).mean())
