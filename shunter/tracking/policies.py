"""Trained policies in MLflow's model registry; the alias ``champion`` moves to the better one only.

And it moves to nothing that is not better than the best heuristic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.file import load_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.model_uri import find_version, load_registered
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.sinks import registry_name
from shunter.tracking.origin import origin_tags, origin_words
from shunter.tracking.runs import Tracker
from shunter.tracking.store import StoreError, talking
from shunter.tracking.versions import DECISION, DIGEST, create_version, describe, digest_of
from shunter.train.selection import best_of, heuristics, mean_responses
from shunter.uncertainty import Interval, paired_mean_change, said

__all__ = ["register_policy"]

Array = NDArray[np.float64]

CHAMPION = "champion"

SELECTION_SEEDS = SEED_RANGES["selection"]
"""Workload seeds that champions are chosen on; no training, validation or evaluation uses them."""

CLAIM = "shunter.claim"
"""Tag of versions that were about to become champion, set before the alias moves."""

UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Registration:
    """What became of a policy that was registered.

    Attributes:
        name: Name of the registered model.
        version: Version of the policy; empty if the store could not be used.
        champion: Whether it is the champion now.
        change: Relative change of the mean response against the champion before it; NaN where there was none.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        why: The decision in words.
    """

    name: str
    version: str
    champion: bool
    change: float
    low: float
    high: float
    why: str

    @property
    def words(self) -> str:
        """Which version it is, whether the champion, and why."""
        role = CHAMPION if self.champion else f"no {CHAMPION}"
        version = f"version {self.version}" if self.version else "not registered yet"
        return f"MLflow model {self.name}, {version}, {role}: {self.why}"


@dataclass(frozen=True)
class _Decision:
    better: bool
    change: Interval
    why: str


def register_policy(
    policy_path: str | Path,
    *,
    name: str,
    worlds: Sequence[World],
    tracker: Tracker,
    seeds: Sequence[int] = SELECTION_SEEDS,
) -> Registration:
    """Logs a policy file as an MLflow model, registers it and lets it contend for the alias ``champion``.

    A version begins as undecided, and the alias moves in one step after it is complete: whenever this is
    cut off, the champion is the old one or the new one. Registering the same file again takes up the
    undecided version that was left; the champion's own file is not registered twice. Seeds are of
    workloads; those given if none are asked for serve no training, validation or evaluation.

    The alias is read again before it moves, and what became champion meanwhile is compared with too. If the
    champion cannot be read it stays, and the version is undecided. If the store cannot be used the policy is
    registered by ``shunter track push``, undecided.

    Raises:
        InputError: There is no such file, MLflow takes no such name, or there is no world or seed.
        BrokenFileError: The file is damaged.
        VersionError: The file was trained for observations of another version.
    """
    _check(name, worlds, seeds)
    policy_path = Path(policy_path)
    contest = _Contest(name, LearnedPolicy.load(policy_path), worlds, seeds)
    client = tracker.client()
    try:
        if client is not None:
            return _Registry(client, tracker, name).register(policy_path, contest)
    except StoreError as error:
        tracker.fail(error)
    again = f"`shunter policy register` of the same file decides whether it is {CHAMPION}"
    why = f"{contest.over_heuristic}; {contest.played}. Not compared with a {CHAMPION}: {again}."
    tracker.policy(policy_path, name, why)
    words = f"{why} MLflow cannot be used now; `shunter track push` registers it."
    return Registration(name, "", False, *UNKNOWN, why=words)


class _Contest:
    """A policy against others on the same requests, each of which is played once."""

    def __init__(
        self, name: str, policy: LearnedPolicy, worlds: Sequence[World], seeds: Sequence[int]
    ) -> None:
        self.name, self.policy, self.worlds, self.seeds = name, policy, worlds, seeds
        self.mine = mean_responses(worlds, policy, seeds)
        self.played = f"{len(seeds)} paired seeds in {len(worlds)} world{'s' if len(worlds) > 1 else ''}"
        known = {name: mean_responses(worlds, one, seeds) for name, one in heuristics(worlds).items()}
        best = best_of(known)
        self.above, _, self.over_heuristic = _compare(self.mine, known[best], f"{best}, the best heuristic")
        self._versions: dict[str, Array] = {}

    def against(self, before: Any, store: str) -> _Decision:
        """Whether it is better than the best heuristic, and than a version unless that is of other features.

        Raises:
            BrokenFileError: The version cannot be read.
            StoreError: The store cannot be used.
        """
        if before is None:
            why = f"{self.over_heuristic}; {self.played}. There was no {CHAMPION}."
            return _Decision(self.above, UNKNOWN, why)
        rival = f"the {CHAMPION} before it, version {before.version}"
        try:
            theirs = self.responses(before.version, store)
        except BrokenFileError:
            raise
        except VersionError as error:
            why = f"Not compared with {rival}, which this shunter cannot run: {error}"
            return _Decision(self.above, UNKNOWN, f"{self.over_heuristic}; {self.played}. {why}")
        better, change, over_champion = _compare(self.mine, theirs, rival)
        reasons = [self.over_heuristic, over_champion] if better else [over_champion, self.over_heuristic]
        return _Decision(self.above and better, change, f"{'; '.join(reasons)}; {self.played}.")

    def responses(self, version: str, store: str) -> Array:
        """(worlds, seeds) mean responses of a version in s."""
        if version not in self._versions:
            policy = load_registered(f"models:/{self.name}/{version}", store=store)
            self._versions[version] = mean_responses(self.worlds, policy, self.seeds)
        return self._versions[version]


class _Registry:
    """A model of MLflow's registry, to which others may write at the same time."""

    def __init__(self, client: Any, tracker: Tracker, name: str) -> None:
        self.client, self.tracker, self.name = client, tracker, name
        self.uri = tracker.uri

    def register(self, path: Path, contest: _Contest) -> Registration:
        """Makes a version of a policy file and has it contend.

        Raises:
            StoreError: The store cannot be used.
        """
        with talking(self.uri):
            before, claims = self._champion(), self._claims()
            if before is not None and before.tags.get(DIGEST) == digest_of(path):
                return self._confirm(before)
            version = create_version(
                self.client, self.tracker.run_id, path, self.name, contest.over_heuristic
            )
        try:
            decision = self._move(version, before, claims, contest)
        except BrokenFileError as error:
            stays = f"The {CHAMPION} stays, which cannot be compared with: {error}"
            why = f"{contest.over_heuristic}; {contest.played}. {stays}"
            with talking(self.uri):
                describe(self.client, self.name, version, why)
            return Registration(self.name, version, False, *UNKNOWN, why=why)
        verdict = CHAMPION if decision.better else f"no {CHAMPION}"
        with talking(self.uri):
            self.client.set_model_version_tag(self.name, version, DECISION, verdict)
        return Registration(self.name, version, decision.better, *decision.change, why=decision.why)

    def _move(self, version: str, before: Any, claims: set[str], contest: _Contest) -> _Decision:
        """Decides, and moves the alias if it is to; whoever moved it meanwhile is compared with."""
        while True:
            decision = contest.against(before, self.uri)
            with talking(self.uri):
                now = self._champion()
                if _number(now) != _number(before):
                    before = now
                    continue
                self._describe(version, decision, contest)
                if not decision.better:
                    return decision
                self.client.set_model_version_tag(self.name, version, CLAIM, CHAMPION)
                self.client.set_registered_model_alias(self.name, CHAMPION, version)
                rivals = self._claims() - claims - {version}
            # Two that looked before either had moved: both see the other's claim now, and agree.
            return self._settled(version, rivals, decision, contest)

    def _settled(self, version: str, rivals: set[str], decision: _Decision, contest: _Contest) -> _Decision:
        """Of several that claim the place at once the earliest has it, unless a later one is better."""
        first, *later = sorted({version, *rivals}, key=int)
        found = {version: contest.mine, **{one: contest.responses(one, self.uri) for one in rivals}}
        for one in later:
            if _compare(found[one], found[first], "")[0]:
                first = one
        if first == version:
            return decision
        with talking(self.uri):
            self.client.set_registered_model_alias(self.name, CHAMPION, first)
            rival = f"version {first}, which became {CHAMPION} at the same time"
            _, change, words = _compare(contest.mine, found[first], rival)
            lost = _Decision(False, change, f"{words}; {contest.over_heuristic}; {contest.played}.")
            self._describe(version, lost, contest)
        return lost

    def _describe(self, version: str, decision: _Decision, contest: _Contest) -> None:
        """Writes down what is decided, but that it is."""
        tags = {**origin_tags(contest.policy), **_tags(decision.change, contest.worlds, contest.seeds)}
        for key, text in tags.items():
            self.client.set_model_version_tag(self.name, version, key, text)
        why = f"{decision.why} {origin_words(contest.policy)}"
        describe(self.client, self.name, version, why)

    def _confirm(self, version: Any) -> Registration:
        """The very file is champion; a registration that was cut off after the alias moved is completed."""
        self.client.set_model_version_tag(version.name, version.version, DECISION, CHAMPION)
        figures = {key: float(version.tags.get(f"shunter.{key}", "nan")) for key in ("change", "low", "high")}
        why = f"This very file is the {CHAMPION}. {version.description}"
        return Registration(version.name, str(version.version), True, **figures, why=why)

    def _champion(self) -> Any:
        return find_version(self.client, self.name, CHAMPION)

    def _claims(self) -> set[str]:
        """Versions that were about to become champion when they last said anything."""
        versions = self.client.search_model_versions(f"name = '{self.name}'")
        return {str(v.version) for v in versions if CLAIM in v.tags}


def _number(version: Any) -> str | None:
    return None if version is None else str(version.version)


def _tags(change: Interval, worlds: Sequence[World], seeds: Sequence[int]) -> dict[str, str]:
    where = ", ".join(f"{world.scenario.name} at {load_of(world):.3g}" for world in worlds)
    ends = zip(("change", "low", "high"), change, strict=True)
    figures = {f"shunter.{key}": f"{value:.6f}" for key, value in ends if math.isfinite(value)}
    return {**figures, "shunter.seeds": f"{min(seeds)}-{max(seeds)}", "shunter.worlds": where[:5000]}


def _check(name: str, worlds: Sequence[World], seeds: Sequence[int]) -> None:
    registry_name("name", name)
    if not worlds:
        raise InputError("worlds", "hold a world to compare on", worlds)
    if len(seeds) < 2:
        raise InputError("seeds", "hold at least two seeds, for an interval", list(seeds))


def _compare(mine: Array, theirs: Array, rival: str) -> tuple[bool, Interval, str]:
    """Whether mean responses are lower for certain, by how much, and both in words."""
    change = paired_mean_change(mine, theirs)
    words = f"{change.value:+.2%} [{change.low:+.2%}, {change.high:+.2%}] in mean response"
    unfinished, theirs_unfinished = (int(np.isnan(times).sum()) for times in (mine, theirs))
    if unfinished > theirs_unfinished:
        left = f"leaves {unfinished} episodes unfinished, and {theirs_unfinished} were left by"
        return False, change, f"Not better: {left} {rival} ({words})"
    claims = {"below": "Better than", "above": "Not better than", "undecided": "Undecided against"}
    return change.sign < 0, change, f"{said(change.low, change.high, **claims)} {rival}: {words}"
