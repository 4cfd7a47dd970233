"""A preemption measurement that is killed: what was reported is kept, and no cycle is there twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import shunter.profiling.sweep.sweep
from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.engines.fake.engine import FakeEngine
from shunter.profiling.dataset.journal import Journal
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.preemption.cycles import read_cycles
from shunter.profiling.preemption.folder import open_measurement, run_measurement
from shunter.profiling.preemption.plan import PreemptionPlan, PreemptionSettings, make_preemption_plan
from tests.profiling.test_kill import keys_on_disk

KILL_AFTER_ROWS = (1, 17, 70)
CYCLES = 3 * 10


def plan(checkpoint: str) -> PreemptionPlan:
    settings = PreemptionSettings(
        job_tokens=20, other_tokens=5, prompt_tokens=4, cuts=(2, 10, 18), repeats=10
    )
    models, device = [read_checkpoint(checkpoint)], parse_device("cpu:1-threads")
    return make_preemption_plan(models, None, settings, engine="fake", device=device)


class ReportingJournal(Journal):
    """Says which rows ``append`` returned for."""

    def append(self, row: Mapping[str, Any]) -> None:
        super().append(row)
        os.write(1, f"{row['row_id']}\n".encode())


def measure(folder: Path, checkpoint: str) -> None:
    """What the killed process runs."""
    asked = plan(checkpoint)
    open_measurement(folder, asked, predict=tuple, resume=True)
    shunter.profiling.sweep.sweep.Journal = ReportingJournal  # type: ignore[misc, attr-defined]
    layers = asked.models[0].spec.total_layers
    run_measurement(folder, asked, FakeEngine(device="cpu:1-threads", total_layers=layers))


def killed(folder: Path, checkpoint: Path, after_rows: int | None) -> list[str]:
    """Runs it in a process and kills that; what it reported until then."""
    command = [sys.executable, "-m", __name__, str(folder), str(checkpoint)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if len(lines) == after_rows:
                time.sleep(0.0003 * after_rows)
                process.kill()
    assert process.returncode == (0 if after_rows is None else -9)
    return [line.strip() for line in lines]


def test_it_is_killed_and_goes_on(fake_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    reported: list[str] = []
    dataset = tmp_path / "preemption.parquet"
    for after_rows in (*KILL_AFTER_ROWS, None):
        reported += killed(tmp_path, fake_checkpoints["small"], after_rows)
        assert set(reported) <= keys_on_disk(dataset), "no row that was reported written is lost"
    frame = read_cycles(dataset)
    kept = list(frame[["cut_tokens", "repeat"]].itertuples(index=False, name=None))
    assert len(set(kept)) == len(kept) == CYCLES, "no cycle is there twice"
    assert read_dataset(dataset)["session_id"].nunique() == len(KILL_AFTER_ROWS) + 1
    assert frame["tokens_equal"].all()
    assert list(tmp_path.glob(".*.tmp")) == []


if __name__ == "__main__":
    measure(Path(sys.argv[1]), sys.argv[2])
