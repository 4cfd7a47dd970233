"""What is told to who has waited too long: for a server, or for a word of the one that has the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shunter.serve.boundary import Asked, Refused, ServerFailed
from shunter.serve.core.effects import Job

if TYPE_CHECKING:
    from shunter.serve.gateway.gateway import Gateway


def silent_tokens(asked: Asked, context_tokens: int) -> int:
    """Tokens that a server may generate for a request before it says anything, at most."""
    if asked.stream:
        return 1
    return max(1, asked.answers * min(asked.max_tokens or context_tokens, context_tokens))


def end_late(gateway: Gateway) -> None:
    """Turns away who waited beyond the bound, and ends servers that say nothing any more."""
    before_ns = gateway.now_ns() - round(gateway.settings.timeout_s * 1e9)
    for ticket in gateway.tickets():
        if ticket.job.device < 0 and ticket.job.arrival_ns < before_ns:
            text = f"Waited {gateway.settings.timeout_s:g} s for {ticket.model}."
            gateway.refuse(ticket, Refused(504, "waited_too_long", text))
    for job in gateway.core.stuck(gateway.now_ns()):
        _end_server(gateway, job)


def _end_server(gateway: Gateway, job: Job) -> None:
    """Ends the server that has a request; its others are told as when it had ended by itself."""
    device, model = job.device, job.model
    name, silent_s = gateway.names[model], (gateway.now_ns() - job.quiet_ns) * 1e-9
    why = f"its server said nothing for {silent_s:.0f} s and is started again"
    gateway.cut(job, Refused(504, "server_stuck", f"{name}: {why}"))
    failed = ServerFailed(f"the server of {name} said nothing to a request for {silent_s:.0f} s")
    gateway.fleet.end(device, model, failed)
