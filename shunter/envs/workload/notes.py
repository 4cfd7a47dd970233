"""What a user's traces hold that a scenario does not play as it stands: a line each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.scenario.workload import TracePart, Workload
from shunter.envs.workload.lengths import pairs_of_workload
from shunter.envs.workload.replay import read_replay, replay_notes
from shunter.errors import ShunterWarning

_NO_LIMIT_TOKENS = 10**9


def warn_of_traces(scenario: Scenario) -> None:
    """Warns, a line each, of what traces hold that the scenario does not play as it stands."""
    for note in trace_notes(scenario):
        _warn_once(note)


def trace_notes(scenario: Scenario) -> list[str]:
    """What ``warn_of_traces`` says: of a replay the models and the stretch, of any file what is cut."""
    workload, notes = scenario.workload, []
    if workload.replay is not None:
        notes += replay_notes(workload, workload.replay, scenario.models)
        notes.append(_stretch(workload))
    return list(dict.fromkeys([*notes, *_cuts(scenario)]))


def _stretch(workload: Workload) -> str:
    rows, count = len(read_replay(workload).frame), workload.requests
    file = workload.replay.file if workload.replay else ""
    if count < rows:
        return (
            f"{file}: an episode is {count} of its {rows} requests (workload.requests), from one on that the "
            "seed draws"
        )
    return (
        f"{file}: an episode of {count} requests (workload.requests) holds all {rows} of it, from one on "
        "that the seed draws: intervals over seeds do not say what other requests would give"
    )


def _cuts(scenario: Scenario) -> Iterator[str]:
    """What is cut of requests of files, by the context that their models have."""
    workload, models = scenario.workload, scenario.models
    unlimited = scenario.limits.model_copy(update={"context_tokens": _NO_LIMIT_TOKENS})
    whole = [model.model_copy(update={"context_tokens": None}) for model in models]
    files = [trace_file(workload, model) for model in models]
    if not any(files):
        return
    played = pairs_of_workload(workload, scenario.limits, models)
    asked = pairs_of_workload(workload, unlimited, whole)
    for model, file, has, wants in zip(models, files, played, asked, strict=True):
        cut = int((has != wants).any(axis=1).sum())
        if file and cut:
            context = scenario.context_of(model)
            yield (
                f"{file}: {cut} of {len(wants)} requests are longer than a context of {context} tokens takes "
                "(context_tokens): their answers are cut to half of it, or to what prompts leave, whichever "
                "is more, their prompts to the rest"
            )


def trace_file(workload: Workload, model: Model) -> Path | None:
    """The trace file that a model's requests have their lengths from; None: there is none."""
    if workload.replay:
        return workload.replay.file
    lengths = workload.lengths if model.lengths is None else model.lengths
    return lengths.file if isinstance(lengths, TracePart) else lengths if isinstance(lengths, Path) else None


@cache
def _warn_once(note: str) -> None:
    warnings.warn(note, ShunterWarning, stacklevel=3)
