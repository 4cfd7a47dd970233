"""What happens, told to those who follow it and written into the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shunter.serve.core.effects import Decision
from shunter.serve.core.watch import Watch
from shunter.serve.gateway.follower import Followers

if TYPE_CHECKING:
    from shunter.serve.gateway.gateway import Gateway


class Teller(Watch):
    """Tells of a gateway's decisions, loads and unloads.

    Args:
        gateway: Whose.

    Attributes:
        followers: Those who are told.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.followers = Followers()

    def tell(self, kind: str, **values: Any) -> None:
        """Tells of an event, see ``boundary.Scheduler.events``."""
        self.followers.tell({"type": kind, "time_s": self._gateway.now_ns() * 1e-9, **values})

    def decided(self, decision: Decision, device: int) -> None:
        """See ``Watch.decided``."""
        self.tell(
            "decision",
            device=decision.device,
            choice=decision.choice,
            why=decision.why,
            reason=decision.cause,
            took_ms=decision.took_ms or None,
            fallback=decision.fallback,
            shadow=decision.shadow,
        )
        if self._gateway.recorder is not None:
            self._gateway.recorder.decided(decision, device)

    def began(self, device: int) -> None:
        """See ``Watch.began``; models that run to their end before they go are told of."""
        gateway = self._gateway
        operation = gateway.core.operation(device)
        if operation is not None and not operation.started:
            name = gateway.world.scenario.devices[device].name
            for model in operation.evict:
                self.tell("drain", model=gateway.names[model], device=name, reason=operation.cause)
        if gateway.recorder is not None:
            gateway.recorder.began(device)

    def over(self, device: int) -> None:
        """See ``Watch.over``."""
        if self._gateway.recorder is not None:
            self._gateway.recorder.over(device)

    def lost(self, device: int, model: int, level: int, reason: str) -> None:
        """See ``Watch.lost``; the gateway has told of it already."""
        if self._gateway.recorder is not None:
            self._gateway.recorder.lost(device, model, level, reason)

    def server(self, what: str, device: int, model: int) -> None:
        """What a server did: ``start``, ``wake``, ``sleep`` or ``end``; a start is told of as a load."""
        gateway = self._gateway
        name = gateway.names[model]
        if what != "start":
            self.tell(what, model=name, device=gateway.world.scenario.devices[device].name)
        if gateway.recorder is not None:
            gateway.recorder.server(device, f"{what} {name}")
