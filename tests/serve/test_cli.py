from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shunter.cli import serve as command
from shunter.errors import InputError


def test_without_its_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\nimport shunter.cli.main as s; s.main(['serve', '--try'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("shunter: serving needs the extra: pip install 'shunter[serve]'")
    assert len(done.stderr.splitlines()) == 1


def test_no_model_is_fetched_to_try_without_a_server_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shunter.serve.try_model.fetch_try_model", lambda **said: pytest.fail("it was fetched")
    )
    with pytest.raises(InputError, match="--llama-server must be a llama-server binary"):
        command._trial(tmp_path, str(tmp_path / "nothing"))
