"""A preemption measurement that is killed: what was reported is kept, and no cycle is there twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from shunter.catalog.checkpoints import read_checkpoint
from shunter.engines.fake.engine import FakeEngine
from shunter.profiling.preemption.folder import open_measurement
from shunter.profiling.preemption.plan import PreemptionPlan, PreemptionSettings, make_preemption_plan
from shunter.profiling.preemption.protocol import measure_preemption
from shunter.profiling.preemption.rows import PreemptionRow, read_rows

KILL_AFTER_ROWS = (1, 4, 10)
CYCLES = 3 * 10


def plan(checkpoint: str) -> PreemptionPlan:
    settings = PreemptionSettings(
        job_tokens=20, other_tokens=5, prompt_tokens=4, cuts=(2, 10, 18), repeats=10
    )
    return make_preemption_plan([read_checkpoint(checkpoint)], None, settings)


def measure(folder: Path, checkpoint: str) -> None:
    """What the killed process runs: it says which rows ``append`` returned for."""
    measurement = open_measurement(
        folder, plan(checkpoint), engine="fake", device="cpu:1-threads", predict=tuple, resume=True
    )
    append = measurement.file.append

    def reporting(row: PreemptionRow) -> None:
        append(row)
        os.write(1, f"{row.cut_tokens} {row.repeat}\n".encode())

    measurement.file.append = reporting  # type: ignore[method-assign]
    layers = measurement.plan.models[0].spec.total_layers
    measure_preemption(measurement, FakeEngine(device="cpu:1-threads", total_layers=layers))


def killed(folder: Path, checkpoint: Path, after_rows: int | None) -> list[tuple[int, int]]:
    """Runs it in a process and kills that; what it reported until then."""
    command = [sys.executable, "-m", __name__, str(folder), str(checkpoint)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if len(lines) == after_rows:
                time.sleep(0.003 * after_rows)
                process.kill()
    assert process.returncode == (0 if after_rows is None else -9)
    return [(int(cut), int(repeat)) for cut, repeat in map(str.split, lines)]


def test_it_is_killed_and_goes_on(fake_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    for after_rows in (*KILL_AFTER_ROWS, None):
        reported += killed(tmp_path, fake_checkpoints["small"], after_rows)
        frame = read_rows(tmp_path / "preemption.parquet")
        kept = list(frame[["cut_tokens", "repeat"]].itertuples(index=False, name=None))
        assert len(set(kept)) == len(kept), "no cycle is there twice"
        assert set(reported) <= set(kept), "no cycle that was reported written is lost"
    assert len(kept) == CYCLES
    assert frame["session_id"].nunique() == len(KILL_AFTER_ROWS) + 1
    assert list(tmp_path.glob(".*.tmp")) == []


if __name__ == "__main__":
    measure(Path(sys.argv[1]), sys.argv[2])
