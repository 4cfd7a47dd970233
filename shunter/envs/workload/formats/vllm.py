"""What ``vllm bench serve --save-detailed`` saves: one JSON object, with lists of a value a request."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns, is_blank, numbers, records
from shunter.envs.workload.formats.tables import Table
from shunter.errors import InputError

_LISTS = ("input_lens", "output_lens", "start_times", "queue_times", "errors")


class VllmFormat(TraceFormat):
    """Times are of the client's own clock, in seconds, when a request was sent; all are for one model."""

    def matches(self, table: Table) -> bool:
        """See ``TraceFormat.matches``; files of other benchmarks lack when requests were sent."""
        return table.keys >= {"input_lens", "output_lens"}

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``; requests that failed are left out."""
        if len(table.rows) != 1:
            rule = "hold one run of a benchmark: every run has a clock of its own"
            raise InputError(str(table.path), rule, len(table.rows))
        run = records(table.rows)[0]
        for name in ("input_lens", "output_lens"):
            _check_list(table, name, run.get(name), None)
        lists = {name: run[name] for name in _LISTS if not is_blank(run.get(name))}
        for name, values in lists.items():
            _check_list(table, name, values, len(run["input_lens"]))
        frame = pd.DataFrame(
            {"prompt_tokens": run["input_lens"], "decode_tokens": run["output_lens"]}, dtype=object
        )
        others = {name: of for name, of in run.items() if isinstance(of, list) and len(of) == len(frame)}
        unread = pd.DataFrame({name: of for name, of in others.items() if name not in _LISTS})
        frame["model"] = run.get("model_id")
        notes = []
        if "start_times" in lists:
            sent = numbers(pd.Series(lists["start_times"], dtype=object))
            waited = numbers(pd.Series(lists.get("queue_times", [0.0] * len(frame)), dtype=object))
            frame["arrival_s"] = sent - waited
            if not is_blank(run.get("max_concurrency")) and "queue_times" not in lists:
                most = run["max_concurrency"]
                notes.append(f"{table.path}: arrivals waited for answers, at most {most} requests at a time")
        failed = [bool(error) for error in lists.get("errors", [""] * len(frame))]
        if any(failed):
            notes.append(f"{table.path}: {sum(failed)} requests that failed left out")
        kept = [not one for one in failed]
        frame = frame.loc[kept]
        if "arrival_s" in frame:
            frame = frame.assign(arrival_s=lambda f: f["arrival_s"] - f["arrival_s"].min())
        return Reading(frame, self.unit, unread, tuple(notes))


def _check_list(table: Table, name: str, values: Any, count: int | None) -> None:
    if not isinstance(values, list):
        raise InputError(f"{table.path}: {name}", "be a list", values)
    if count is not None and len(values) != count:
        raise InputError(f"{table.path}: {name}", f"have a value for each of {count} requests", len(values))


VLLM = VllmFormat(
    "vllm bench serve --save-result --save-detailed, https://github.com/vllm-project/vllm",
    columns("start_times", "input_lens", "output_lens", model="model_id"),
    says_unit=True,
    is_sorted=False,
)
