from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sizes


def test_sizes_are_as_published_and_a_wrong_figure_would_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row.ok for row in sizes.run(True) if row.bar] == [True] * 6
    text = sizes.PUBLISHED.read_text()
    monkeypatch.setattr(sizes, "PUBLISHED", tmp_path / "wrong.csv")
    sizes.PUBLISHED.write_text(text.replace("70272", "71272"))
    wrong = {row.metric for row in sizes.run(True) if row.ok is False}
    assert wrong == {"worst error of kv_bytes_per_token"}
