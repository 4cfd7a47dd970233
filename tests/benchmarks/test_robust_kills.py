from __future__ import annotations

from pathlib import Path

from benchmarks.robust_commands import COMMANDS, without
from benchmarks.robust_kills import Counts, kill_rows


def test_what_differs_or_is_left_is_counted_and_the_bar_is_none() -> None:
    clean = kill_rows("fit", Counts(kills=3), 3)
    assert [(row.value, row.ok) for row in clean] == [(3, True), (0, True), (0, True)]
    assert clean[1].note == "3 kills"
    bad = kill_rows("fit", Counts(3, ["other model"], ["tmp/SB3-1 is left", "tmp/SB3-2 is left"]), 4)
    assert [(row.value, row.ok) for row in bad] == [(3, False), (1, False), (2, False)]
    assert "other model" in bad[1].note


def test_what_differs_from_run_to_run_is_not_compared() -> None:
    value = {"a": [{"elapsed_s": 1.0, "score": 2}], "elapsed_s": 3}
    assert without(value, ("elapsed_s",)) == {"a": [{"score": 2}]}


def test_a_command_is_begun_again_as_it_was() -> None:
    for command in COMMANDS.values():
        begun = command.words(Path("in"), again=False)
        assert command.words(Path("in"), again=True)[: len(begun)] == begun
        assert not any("{" in word for word in begun)
