"""Commands that write, each small: how they are begun and gone on with, and what must have come of them."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

from benchmarks.robust_warm import start
from shunter.agents.learned.policy import LearnedPolicy
from shunter.catalog.models import get_model, scaled_model
from shunter.eval.execution.event_log import read_event_log
from shunter.files import write_text
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from shunter.tracking.runs import tracking

__all__ = ["COMMANDS", "Command", "Place", "prepare", "without"]

MARK = "SHUNTER_ROBUST"
"""Environment variable by which a command's processes are found."""

MLFLOW = ("mlflow.db", "mlartifacts")

SIZES = {"small": 3e6, "large": 9e6}
PROFILE = (
    "profile --engine fake --device cpu:1-threads --model {inputs}/small --gpu-layers all,50% --prompt 16"
)
SMALL = f"{PROFILE.replace(',50%', '')} --decode 4 --cuts none --precision none"
WORLD = "--scenario {inputs}/s.yaml --performance {inputs}/perf"
EVAL = f"eval {WORLD} --policy fifo-swap --policy cost-greedy"
EVAL_REAL = f"{EVAL.replace('s.yaml', 'few.yaml')} --seeds 1 --real --out out"

Found = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        begin: Its words; ``{inputs}`` is where what it reads lies.
        more: Words by which the same command is begun again where there is something already: ``--resume``
            goes on with it, ``--overwrite`` replaces it.
        found: What came of it, to compare; raises what its reader raises if it is not whole.
    """

    begin: str
    more: str
    found: Callable[[Path], Found]

    def words(self, inputs: Path, *, again: bool) -> list[str]:
        """The command line without the program."""
        return f"{self.begin} {self.more if again else ''}".format(inputs=inputs).split()


def without(value: Any, names: Sequence[str]) -> Any:
    """Plain data without what differs from run to run, wherever it is in it."""
    if isinstance(value, dict):
        return {key: without(of, names) for key, of in value.items() if key not in names}
    return [without(of, names) for of in value] if isinstance(value, list) else value


def _json(path: Path) -> Any:
    return without(
        json.loads(path.read_bytes()), ("provenance", "elapsed_s", "decision_s", "decision_mean_s", "digest")
    )


def _frame(frame: pd.DataFrame, *columns: str) -> str:
    return str(frame[list(columns)].to_csv(index=False))


def _profile(folder: Path) -> Found:
    rows = read_dataset(folder / "profile.parquet")
    return {"rows": Counter(zip(rows.cell_id, rows.repeat, rows.operation, strict=True))}


def _train(folder: Path) -> Found:
    policy = LearnedPolicy.load(folder / "policy.safetensors")
    events = read_event_log(folder / "policy.events.parquet")
    return {
        "weights": {name: array.tobytes() for name, array in policy.weights.items()},
        "metadata": {key: text for key, text in policy.metadata.items() if key == "validation_ratio"},
        "events": _frame(events, "operation", "device", "model"),
    }


def _tune(folder: Path) -> Found:
    return {"found": _json(folder / "tuned.json")}


def _eval(folder: Path) -> Found:
    requests = pd.read_parquet(folder / "out" / "requests.parquet")
    return {
        "results": _json(folder / "out" / "results.json")["policies"],
        "requests": _frame(requests, "policy", "seed", "request_id", "finish_s"),
        "events": len(read_event_log(folder / "out" / "events.parquet")),
        "report": (folder / "out" / "report.html").stat().st_size > 0,
    }


def _eval_real(folder: Path) -> Found:
    requests = pd.read_parquet(folder / "out" / "requests.parquet")
    return {
        "policies": sorted(_json(folder / "out" / "results.json")["policies"]),
        "requests": _frame(requests, "policy", "seed", "mode", "request_id"),
        "logged": sorted(read_event_log(folder / "out" / "events.parquet").run_id.unique()),
    }


def _fit(folder: Path) -> Found:
    return {
        "model": without(_json(folder / "perf" / "performance.json"), ("fitted_at", "created_at")),
        "card": sorted(path.name for path in (folder / "perf").iterdir()),
    }


COMMANDS = {
    "profile": Command(
        f"{SMALL} --repeats 3",
        "--resume",
        _profile,
    ),
    "train": Command(
        f"train {WORLD} --generations 4 --out policy.safetensors",
        "--resume",
        _train,
    ),
    "tune": Command(
        f"tune {WORLD} --policy cost-greedy --trials 8 --seeds 2 --json tuned.json",
        "",
        _tune,
    ),
    "eval": Command(f"{EVAL} --seeds 2 --out out", "--overwrite", _eval),
    "eval --real": Command(
        f"{EVAL.replace('s.yaml', 'few.yaml')} --seeds 1 --real --out out", "--overwrite", _eval_real
    ),
    "fit": Command("fit {inputs}/few.parquet --out perf --quick", "", _fit),
}
"""What is killed, and runs out of room."""


class Place:
    """A folder to work in, one for temporary files, and the commands that run there.

    Args:
        folder: An empty folder, or one to be made.
        inputs: From ``prepare``.
    """

    def __init__(self, folder: Path, inputs: Path) -> None:
        self.work, self.temporary, self.inputs = folder / "work", folder / "tmp", inputs
        self._said = folder.with_name(f"{folder.name}.said")  # it has room where the folder has none
        self._sessions: set[int | None] = set()
        for one in (self.work, self.temporary):
            one.mkdir(parents=True)
        if (inputs / "mlflow.db").exists():  # it takes MLflow seconds to make one
            shutil.copyfile(inputs / "mlflow.db", self.work / "mlflow.db")

    def start(self, words: Sequence[str], most_bytes: int = 0) -> BaseProcess:
        """Starts a command; what it says is in ``said``."""
        environment = {MARK: str(self.work), "TMPDIR": str(self.temporary)}
        process = start(
            words, folder=self.work, said=self._said, environment=environment, most_bytes=most_bytes
        )
        self._sessions.add(process.pid)
        return process

    def run(self, command: Command, *, again: bool, most_bytes: int = 0) -> int:
        """Runs a command to its end; its exit status."""
        process = self.start(command.words(self.inputs, again=again), most_bytes)
        process.join()
        return process.exitcode or 0

    def said(self) -> str:
        """What the last command printed."""
        return self._said.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Live processes of commands that were started here."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = os.getsid(process.pid) in self._sessions
                mine = mine or process.environ().get(MARK) == str(self.work)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def files(self) -> set[str]:
        """Names of all files and folders that lie here, MLflow's own apart; temporary ones with ``tmp/``."""
        lying = {path.relative_to(self.work).as_posix() for path in self.work.rglob("*")}
        passing = {f"tmp/{path.name}" for path in self.temporary.iterdir()}
        return {name for name in lying | passing if not name.startswith(MLFLOW)}


def prepare(inputs: Path) -> None:
    """Makes what the commands read: checkpoints, a dataset, a performance model, a scenario, a store."""
    inputs.mkdir(parents=True)
    for name, params in SIZES.items():
        spec = scaled_model(get_model("Qwen3-8B"), params)
        write_checkpoint(spec, inputs / name, format="safetensors", quantization="F32")
    place = Place(inputs / "made", inputs)
    dataset = "{inputs}/profile.parquet --model {inputs}/large --prompt 16,64 --decode 8 --cuts 8"
    grid = PROFILE.removesuffix(" --prompt 16")
    _made(place, f"{grid} --out {dataset} --repeats 1 --precision none --context 256")
    _made(place, "fit {inputs}/profile.parquet --out {inputs}/perf --quick")
    _made(place, f"{SMALL} --out {{inputs}}/few.parquet --repeats 1")
    with tracking("fit", "none", folder=place.work):
        pass
    shutil.copyfile(place.work / "mlflow.db", inputs / "mlflow.db")
    workload: dict[str, Any] = {"requests": 30, "load": 0.7, "prompt_scale": 0.05, "decode_scale": 0.1}
    scenario: dict[str, Any] = {
        "name": "robust",
        "engine": "fake",
        "models": [
            {"name": name, "checkpoint": str(inputs / name), "levels": ["all", "50%"]} for name in SIZES
        ],
        "devices": [{"name": "d0", "device": "cpu:1-threads-100MB"}],
        "workload": workload,
        "limits": {"context_tokens": 256},
    }
    write_text(inputs / "s.yaml", yaml.safe_dump(scenario, sort_keys=False))
    few = {**scenario, "workload": {**workload, "requests": 6}}  # as long as they take for real
    write_text(inputs / "few.yaml", yaml.safe_dump(few, sort_keys=False))


def _made(place: Place, line: str) -> None:
    if place.run(Command(line, "", lambda folder: {}), again=False):
        raise RuntimeError(f"{line}: {place.said()}")
