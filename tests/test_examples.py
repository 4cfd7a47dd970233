from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN"])
def test_stock_algorithms_train_and_are_set_beside_a_heuristic(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3", reason="needs the extra train")
    example = runpy.run_path(str(EXAMPLES / "sb3_baselines.py"))
    example["main"](name, steps=2048)
    first, *lines = capsys.readouterr().out.splitlines()
    illegal, decisions = (int(word) for word in first.split() if word.isdigit())
    assert 0 < illegal < decisions
    assert [line.split(":")[0] for line in lines] == [name, "cost-greedy"]
    assert "0 requests unfinished" in lines[1]


def test_a_tree_search_on_states_is_no_worse_than_the_heuristic_behind_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(EXAMPLES / "mcts.py"))["main"](4, 30)
    found = dict(line.split(": return ") for line in capsys.readouterr().out.splitlines())
    assert list(found) == ["mcts", "cost-greedy"]
    assert float(found["cost-greedy"]) <= float(found["mcts"]) < 0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("many", 2)])
def test_an_example_says_how_it_is_called(
    path: Path, word: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "torch" in path.read_text() or "stable_baselines3" in path.read_text():
        pytest.importorskip("stable_baselines3", reason="needs the extra train")
    monkeypatch.setattr(sys, "argv", [path.name, word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == code
    said = capsys.readouterr()
    assert "invalid" in said.err if code else said.out.partition("\n\n")[2]
