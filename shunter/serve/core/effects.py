"""What the core has in hand and what it asks for: requests, operations, decisions and effects."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Broken", "Dispatch", "Job", "Refuse", "Start"]

CAUSES = ("policy", "fallback", "guard", "ttl", "preload", "pinned", "unload", "reload")
"""Why something is loaded or unloaded: by whom it was decided.

The policy; the one in its place where it failed; the guard, which left it no choice; a model's idle time,
which was over; what is to be there from the start, or always; ``POST /unload``; another scenario.
"""


@dataclass
class Job:
    """A request in the system.

    Attributes:
        id: Number, in order of arrival.
        model: Index of its model.
        slot: Where the state has it.
        arrival_ns: When it arrived.
        prompt_tokens: Estimated, until the server says.
        device: Index of the device whose server has it; -1 while it waits.
        tokens: Generated so far.
        first_ns: When the first of them came; -1 before.
        finish_ns: When its answer ended; -1 before.
        sent_ns: When it was sent to a server last; -1 before.
        sends: How often it was sent to one.
        attempts: How many servers it has lost.
    """

    id: int
    model: int
    slot: int
    arrival_ns: int
    prompt_tokens: int
    device: int = -1
    tokens: int = 0
    first_ns: int = -1
    finish_ns: int = -1
    sent_ns: int = -1
    sends: int = 0
    attempts: int = 0


@dataclass(frozen=True)
class Dispatch:
    """A request goes to the server of its model on a device."""

    id: int
    device: int
    model: int


@dataclass(frozen=True)
class Start:
    """A device unloads some models and then, perhaps, loads one; ``Core.ended`` is told how it went.

    Attributes:
        device: Index of the device.
        evict: Indices of the models to unload.
        model: Index of the model to load; -1: none.
        level: Index of its level.
        expected_s: How long that is predicted to take.
        cause: Why, one of ``CAUSES``.
    """

    device: int
    evict: tuple[int, ...]
    model: int
    level: int
    expected_s: float
    cause: str = "policy"


@dataclass(frozen=True)
class Requeued:
    """A request has lost its server before anything was out, and waits again."""

    id: int


@dataclass(frozen=True)
class Refuse:
    """A waiting request cannot be served: its model does not load anywhere."""

    id: int


@dataclass(frozen=True)
class Broken:
    """A request has lost its server when part of the answer was out, or too often; it has left."""

    id: int


Effect = Dispatch | Start | Requeued | Refuse | Broken


@dataclass(frozen=True)
class Decision:
    """A decision, also in words, for people.

    Attributes:
        time_s: When, on the core's clock.
        device: Name of the device.
        choice: What was chosen.
        why: What spoke for it.
        took_ms: How long it took; 0 where no policy was asked.
        action: What was chosen, as the rules number it.
        cause: By whom, one of ``CAUSES``.
        shadow: What the shadow policy would have chosen; None without one.
        shadow_action: The same, as the rules number it.
        fallback: Whether the policy failed and another decided.
        repeats: Whether the device chose that before, and led to nothing, since anything last happened.
    """

    time_s: float
    device: str
    choice: str
    why: str
    took_ms: float
    action: int
    cause: str
    shadow: str | None = None
    shadow_action: int | None = None
    fallback: bool = False
    repeats: bool = False

    def is_news_after(self, last: Decision) -> bool:
        """Whether people should see it who have seen the last one."""
        return not self.repeats and (last.device, last.choice) != (self.device, self.choice)


@dataclass
class Operation:
    """What a device's loading lane is at."""

    kind: str
    model: int
    level: int
    evict: tuple[int, ...]
    since_ns: int
    cause: str
    started: bool = False
    expected_s: float = 0.0


@dataclass
class Totals:
    """Counts since the start; a shadow would have taken ``differed`` of ``compared`` decisions otherwise."""

    served: int = 0
    cancelled: int = 0
    failed: int = 0
    loads: int = 0
    evictions: int = 0
    decisions: int = 0
    fallbacks: int = 0
    compared: int = 0
    differed: int = 0

    def count(self, decision: Decision) -> None:
        """Counts a policy's decision; one that only repeats another is not compared with the shadow's."""
        self.decisions += 1
        self.fallbacks += decision.fallback
        if decision.shadow_action is not None and not decision.repeats:
            self.compared += 1
            self.differed += decision.action != decision.shadow_action
