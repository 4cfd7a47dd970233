from __future__ import annotations

from pathlib import Path

import pytest

from shunter.agents.registry import make_policy
from shunter.cli.main import main
from shunter.envs.world.world import World
from shunter.eval.execution.event_log import write_event_logs
from shunter.eval.execution.runs import simulate


@pytest.fixture(scope="module")
def events(fake_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.parquet"
    write_event_logs(
        [simulate(fake_world, make_policy(n), 0).log for n in ("cost-greedy", "fifo-swap")], path
    )
    return path


def shunter(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["timeline", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_it_writes_a_page_and_a_trace(
    events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "p.html", "--perfetto", tmp_path / "t.json")
    assert shunter(events, "--run", "fifo-swap/0/simulated", *options) == 0
    assert "fifo-swap, simulated, workload seed 0" in " ".join(capsys.readouterr().out.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.html", "t.json"]


def test_a_trace_alone_needs_no_page(events: Path, tmp_path: Path) -> None:
    assert shunter(events, "--run", "cost-greedy/0/simulated", "--perfetto", tmp_path / "t.json") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "cost-greedy/0/simulated, fifo-swap/0/simulated"),
        (("--run", "cost-greedy/1/simulated"), "did you mean cost-greedy/0/simulated"),
        (("--run", "cost-greedy/0/simulated", "--out", "nowhere/p.html"), "in an existing folder"),
        (("--run", "cost-greedy/0/simulated", "--from", "1e9"), "--from must be before"),
    ],
)
def test_what_it_refuses(
    events: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shunter(events, *options) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_log_itself_is_safe(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = events.read_bytes()
    assert shunter(events, "--run", "cost-greedy/0/simulated", "--out", events) == 2
    assert "must be another file than --events" in capsys.readouterr().err
    assert events.read_bytes() == before


def test_no_such_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shunter(tmp_path / "none.parquet", "--out", tmp_path / "p.html") == 2
    assert "existing Parquet file" in capsys.readouterr().err
