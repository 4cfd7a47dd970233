"""Qwen-Bailian's traces: Mooncake's keys and those of chats, in seconds."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns, names
from shunter.envs.workload.formats.tables import Table


class BailianFormat(TraceFormat):
    """A request's session is the chat that its chain of parents begins with."""

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        reading = super().read(table)
        chats = names(table.rows["chat_id"], f"{table.path}: chat_id")
        parents = names(table.rows["parent_chat_id"], f"{table.path}: parent_chat_id")
        sessions = _roots(dict(zip(chats, parents, strict=True)))
        frame = reading.frame.assign(session=pd.Series([sessions[chat] for chat in chats], dtype=object))
        return replace(
            reading, frame=frame, unread=reading.unread.drop(columns=["chat_id", "parent_chat_id"])
        )


def _roots(parents: dict[str, str]) -> dict[str, str]:
    """The first chat of each one's chain; that of a chain whose beginning was cut off is the last known."""
    roots: dict[str, str] = {}
    for chat in parents:
        chain = [chat]
        while chain[-1] not in roots:
            parent = parents.get(chain[-1], "-1")
            if parent in ("-1", "") or parent in chain:
                roots[chain[-1]] = chain[-1]
            else:
                chain.append(parent)
        roots.update(dict.fromkeys(chain, roots[chain[-1]]))
    return roots


BAILIAN = BailianFormat(
    "Qwen-Bailian, https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon",
    columns("timestamp", "input_length", "output_length"),
    keys=frozenset({"chat_id", "parent_chat_id"}),
    has_fractions=True,
)
