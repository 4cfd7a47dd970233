"""The next policy from what a gateway recorded: trained on the earlier part, judged on the later one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shunter.agents.base import Policy, is_oracle
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.traffic.record import Record, requests_of
from shunter.eval.traffic.world import SequencesWorld, StretchesWorld, measured_loads
from shunter.files import write_text
from shunter.tracking.policies import register_policy
from shunter.tracking.runs import tracking
from shunter.tracking.trainings import log_policy, log_training
from shunter.train.algorithms import train_policy
from shunter.train.result import TrainResult
from shunter.train.runs import key_file, run_key
from shunter.train.selection import mean_responses
from shunter.train.settings import EvolutionSettings, plain
from shunter.train.verdict import judge
from shunter.uncertainty import Interval, paired_mean_change, said

__all__ = ["improve", "marker_of"]

FEWEST_WINDOWS, MOST_WINDOWS = 8, 40
"""Held-back windows: fewer give no interval worth having, more make them short."""

WINDOW = 20
"""Requests of a window at least."""

HELD_BACK = FEWEST_WINDOWS * WINDOW
"""Requests that must be held back at least."""

FEWEST = 3 * HELD_BACK
"""Requests that a record must hold: of those held back twice as many are trained on."""

HEURISTIC = "cost-greedy"
DAY_S = 86_400.0


@dataclass(frozen=True)
class Split:
    """A record in two parts.

    Attributes:
        train: Requests to train on.
        held: Requests that come after them, and judge.
        words: What was held back.
    """

    train: pd.DataFrame
    held: pd.DataFrame
    words: str


@dataclass(frozen=True)
class Improved:
    """What came of it.

    Attributes:
        policy: The new policy.
        ran: Name of the policy that ran.
        windows: Held-back windows.
        changes: Relative change of the mean response by what it is against: the policy that ran first, then
            cost-greedy.
        champion: Whether the new policy is champion now.
        words: At most ten lines, the answer first.
    """

    policy: LearnedPolicy
    ran: str
    windows: int
    changes: dict[str, Interval]
    champion: bool
    words: tuple[str, ...]


def split_record(record: Record) -> Split:
    """Holds back the last third: whole days (of UTC) where there are two or more, else requests.

    Raises:
        InputError: It is too short to train on and to judge by.
    """
    requests = record.requests
    if len(requests) < FEWEST:
        raise InputError("RECORD", f"hold at least {FEWEST} requests that were answered", len(requests))
    day = (requests["arrival_s"] // DAY_S).to_numpy(np.int64)
    days = np.unique(day)
    for count in range(max(1, round(len(days) / 3)), len(days)):
        late = day >= days[-count]
        if late.sum() >= HELD_BACK and (~late).sum() >= HELD_BACK:
            many = "day" if count == 1 else f"{count} days"
            return Split(requests[~late], requests[late], f"the last {many} of {len(days)}")
    first = len(requests) - max(HELD_BACK, len(requests) // 3)
    return Split(requests[:first], requests[first:], "the last third")


def improve(
    record: Record,
    world: World,
    ran: Policy,
    out: Path,
    *,
    name: str,
    settings: EvolutionSettings | None = None,
    folder: Path = Path(),
    on_progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Improved:
    """Trains a policy on recorded traffic and registers it if it is better than the one that ran.

    Training plays random stretches of the earlier requests, from the policy that ran if that was trained.
    The new policy, the one that ran and cost-greedy then serve the held-back windows, with loads as measured.
    It contends for the alias ``champion`` (``register_policy``) only if the paired interval is below zero.
    Where it was cut off between the policy's file and its end, it goes on in the MLflow run of then.

    Args:
        record: What happened.
        world: What it was served by (``served_world``).
        ran: The policy that ran.
        out: Policy file to write.
        name: To register under.
        settings: Of the training.
        folder: Where MLflow's store is, unless the environment says.
        on_progress: Called with where the training stands, how much is done, and how much there is.

    Raises:
        InputError: The record is too short, or ``ran`` is an oracle.
        UnknownNameError: The scenario lacks a model that was asked for.
        KeyboardInterrupt: Ctrl-C cut it short; nothing is registered.
    """
    if is_oracle(ran):
        raise InputError("--against", "be no oracle: no server knows what it does", ran.name)
    settings, split = settings or EvolutionSettings(), split_record(record)
    world, measured = measured_loads(world, record.events)
    held = _held_back(world, split.held)
    count = len(split.held) // len(held.sequences)
    training = StretchesWorld.of(world, requests_of(split.train, world.scenario), count)
    start = ran if isinstance(ran, LearnedPolicy) else None
    key, marker = run_key(_mark(out), resume=True), marker_of(out)
    with tracking("improve", f"improve {name}: better than {ran.name}?", folder=folder, key=key) as tracker:
        log_training(tracker, plain(settings), [training], [held], start, file=out)
        tracker.params({"ran": ran.name, "held_back": split.words})
        result = _train(training, held, settings, start, on_progress)
        result.policy.name = name
        write_text(marker, key)
        result.policy.save(out)
        changes = _changes(held, result.policy, ran)
        for point in result.curve:
            figures = {"response_ratio": point.ratio, "elapsed_s": point.elapsed_s}
            tracker.metrics({"validation": figures, **point.diagnostics}, step=point.steps)
        tracker.metrics({f"against/{rival}": change._asdict() for rival, change in changes.items()})
        log_policy(out, result.policy, [training], tracker)
        champion, fate = False, f"not registered: it is not shown to be better than {ran.name}, which ran"
        if changes[ran.name].sign < 0:
            done = register_policy(out, name=name, worlds=[held], tracker=tracker, seeds=held.seeds)
            champion, fate = done.champion, done.words
        marker.unlink()
    loads = f"{sum(one.loads for one in measured)} measured loads" if measured else "loads as predicted"
    words = [
        *_against(changes, ran.name, len(held.sequences), count),
        f"trained on {len(split.train)} requests, judged on {len(split.held)}: {split.words}; {loads}",
        fate,
        f"{out}: {result.curve[-1].steps} decisions in {result.curve[-1].elapsed_s:.0f} s",
    ]
    return Improved(result.policy, ran.name, len(held.sequences), changes, champion, tuple(words))


def marker_of(out: Path) -> Path:
    """The file that is beside a policy while not all of what comes after it is done."""
    return key_file(_mark(out))


def _mark(out: Path) -> Path:
    return out.with_name(f"{out.stem}.improve{out.suffix}")


def _held_back(world: World, rows: pd.DataFrame) -> SequencesWorld:
    """The held-back requests in windows, one after another, each begun with nothing loaded."""
    count = min(MOST_WINDOWS, len(rows) // WINDOW)
    ends = np.linspace(0, len(rows), count + 1).astype(int).tolist()
    parts = [rows[first:end] for first, end in itertools.pairwise(ends)]
    return SequencesWorld.of(world, [requests_of(part, world.scenario, lead_s=1.0) for part in parts])


def _train(
    training: StretchesWorld,
    held: SequencesWorld,
    settings: EvolutionSettings,
    start: LearnedPolicy | None,
    on_progress: Callable[[str, int, int], None],
) -> TrainResult:
    """Trains on stretches; what the file says of the policy is judged on what was held back."""

    def show(share: float, point: object) -> None:
        on_progress(
            f"{getattr(point, 'ratio', 1.0):.3f} of the best heuristic's cost", round(100 * share), 100
        )

    result = train_policy(training, settings, start=start, on_progress=show)
    if result.interrupted:
        raise KeyboardInterrupt
    result.policy.metadata.update(judge(result.policy, [held], held.seeds, start=start))
    return result


def _changes(held: SequencesWorld, policy: Policy, ran: Policy) -> dict[str, Interval]:
    """The policy against the one that ran and against cost-greedy, paired over windows."""
    mine = mean_responses([held], policy, held.seeds)
    rivals = {ran.name: ran, HEURISTIC: make_policy(HEURISTIC)}
    return {
        name: paired_mean_change(mine, mean_responses([held], rival, held.seeds))
        for name, rival in rivals.items()
    }


def _against(changes: dict[str, Interval], ran: str, windows: int, count: int) -> list[str]:
    """What came of it against each, in words."""
    lines = []
    for name, change in changes.items():
        claims = {"below": "better than", "above": "worse than", "undecided": "undecided against"}
        which = f"{name}, which ran" if name == ran else name
        figures = f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}] in mean response"
        lines.append(f"{said(change.low, change.high, **claims)} {which}: {figures}")
    lines[0] += f", on {windows} held-back windows of {count} requests, simulated"
    return lines
