"""What a shadow policy would have decided otherwise, by a gateway's event log."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd


class Shadowed(NamedTuple):
    """A policy that decided, and another that was asked too (``shunter serve --shadow``).

    Attributes:
        policy: Name of the one that decided.
        shadow: Name of the other one.
        decisions: How many both took; what only repeats another while nothing happens is not counted.
        differed: How many of them the other one would have taken otherwise.
        chosen: What was chosen most often where they differ; empty if they never do.
        instead: What the other one would have chosen then.
        times: How often that was.
    """

    policy: str
    shadow: str
    decisions: int
    differed: int
    chosen: str = ""
    instead: str = ""
    times: int = 0

    @property
    def words(self) -> str:
        """All of it, in a line."""
        share = f" ({self.differed / self.decisions:.1%})" if self.decisions else ""
        line = f"{self.shadow} would have decided {self.differed} of {self.decisions} times{share} otherwise"
        if not self.differed:
            return f"{line} than {self.policy}"
        return f"{line} than {self.policy}, most often {self.instead} for {self.chosen} ({self.times} times)"


def shadowed(events: pd.DataFrame) -> list[Shadowed]:
    """Counts the decisions of each two policies of an event log, as ``read_events`` gives it."""
    found = []
    asked = events.dropna(subset=["shadow", "shadow_choice_name"])
    for (policy, shadow), rows in asked.groupby(["policy", "shadow"], sort=False):
        other = rows[rows["choice_name"] != rows["shadow_choice_name"]]
        most: tuple[Any, ...] = ()
        if len(other):
            pairs = other.groupby(["choice_name", "shadow_choice_name"]).size()
            names: Any = pairs.idxmax()
            most = (*names, int(pairs.max()))
        found.append(Shadowed(str(policy), str(shadow), len(rows), len(other), *most))
    return found
