"""A page as a browser sees it: what it drew, and what it complained of."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


@dataclass(frozen=True)
class Seen:
    """What came of opening a page.

    Attributes:
        dom: As it was after all scripts had run.
        console: Lines that the page wrote there, uncaught errors included.
    """

    dom: str
    console: list[str]

    @property
    def figures(self) -> int:
        """Places for figures."""
        return len(re.findall(r'<div id="[^"]*" class="plotly-graph-div', self.dom))

    @property
    def drawn(self) -> int:
        """Figures that plotly.js drew, each with its toolbar."""
        return len(re.findall(r'class="plotly-graph-div js-plotly-plot"', self.dom))


def look(page: Path, profile: Path) -> Seen:
    """Opens a page in Chromium without a window and without a network."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--dump-dom",
            page.absolute().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])
