"""Records of a gateway that was never there: a simulation, written down as a gateway does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import yaml

from shunter.agents.base import Policy
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.event_log import write_event_logs
from shunter.eval.execution.runs import Run, simulate
from tests.serve.test_core import WORLDS

WORLD = WORLDS[1]
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def with_requests(world: World, count: int) -> World:
    workload = world.scenario.workload.model_copy(update={"requests": count})
    return replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))


def write_record(
    folder: Path,
    policy: Policy | str = "cost-greedy",
    *,
    world: World = WORLD,
    count: int = 200,
    start: datetime = NOON,
    seed: int = 0,
    slower: float = 1.0,
) -> Run:
    """Adds a run to a record; answers come so many times later than simulated."""
    policy = make_policy(policy) if isinstance(policy, str) else policy
    run = simulate(with_requests(world, count), policy, seed)
    run.log.mark({"run_id": f"{start:%Y%m%dT%H%M%S}", "mode": "real"})
    folder.mkdir(exist_ok=True)
    write_event_logs([run.log], folder / f"events-{start:%Y%m%dT%H%M%S}-0000.parquet")
    with (folder / "requests.jsonl").open("a") as file:
        for row in run.requests.sort_values("finish_s").to_dict("records"):
            file.write(json.dumps(_line(row, start.timestamp(), slower, world)) + "\n")
    return run


def _line(row: dict[str, float], epoch_s: float, slower: float, world: World) -> dict[str, object]:
    return {
        "arrival_s": round(epoch_s + row["arrival_s"], 6),
        "model": row["model"],
        "prompt_tokens": row["prompt_tokens"],
        "decode_tokens": row["decode_tokens"],
        "session": "",
        "first_token_s": slower * (row["first_token_s"] - row["arrival_s"]),
        "finish_s": slower * (row["finish_s"] - row["arrival_s"]),
        "sent_s": 0.5 * slower * (row["first_token_s"] - row["arrival_s"]),
        "device": 0,
        "device_name": world.scenario.devices[0].name,
        "status": "done",
        "endpoint": "/v1/completions",
    }


def add_line(folder: Path, **changes: object) -> None:
    """Adds the last request once more, changed."""
    file = folder / "requests.jsonl"
    last = json.loads(file.read_text().splitlines()[-1])
    with file.open("a") as lines:
        lines.write(json.dumps({**last, **changes}) + "\n")


def read_lines(folder: Path) -> pd.DataFrame:
    return pd.read_json(folder / "requests.jsonl", lines=True, convert_dates=False)


def write_scenario(folder: Path, world: World = WORLD) -> Path:
    path = folder / "box.yaml"
    data = world.scenario.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    path.write_text(yaml.safe_dump(data))
    return path
