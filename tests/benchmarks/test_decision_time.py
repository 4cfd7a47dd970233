from __future__ import annotations

from pathlib import Path

from benchmarks.decision_time import row, write_untrained


def test_every_decision_is_timed_in_a_process_without_torch(tmp_path: Path) -> None:
    write_untrained(tmp_path / "p.safetensors")
    timed = row("6 models on 2 devices", str(tmp_path / "p.safetensors"), 20)
    assert timed.metric == "time of a decision, trained network, 6 models on 2 devices"
    assert timed.value is not None
    assert timed.interval is not None
    assert 0 < timed.interval[0] <= timed.value <= timed.interval[1]
    assert timed.note.startswith("20 decisions")
