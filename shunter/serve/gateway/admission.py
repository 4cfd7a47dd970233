"""Who is let in, and how long their prompts are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shunter.errors import UnknownNameError
from shunter.serve.boundary import Asked, Refused, Usage
from shunter.serve.gateway.showing import predicted_wait_s

if TYPE_CHECKING:
    from shunter.serve.gateway.gateway import Gateway

_CHARS_PER_TOKEN = 4.0
_LEARNING = 0.05
"""Weight of a new answer in what a model's tokens are long."""

_MOST_CHARS_PER_TOKEN = 8.0
"""A prompt is beyond its context for sure if even so few tokens are too many; else the server says."""


@dataclass
class Facts:
    """What the gateway learns of a model's requests.

    Attributes:
        chars: Of its prompts, on average of late.
        tokens: Of the same prompts, as its servers counted them; their templates are among them.
        answers: How many that was learned from.
        refused: Requests that were turned away.
        failed: Requests that got an error.
    """

    chars: float = 100.0 * _CHARS_PER_TOKEN
    tokens: float = 100.0
    answers: int = 0
    refused: int = 0
    failed: int = 0

    def prompt_tokens(self, asked: Asked) -> int:
        """Tokens of a prompt, as estimated."""
        return max(1, round(asked.prompt_chars * self.tokens / self.chars))

    def learn(self, asked: Asked, usage: Usage) -> None:
        """Learns from what a server said of a prompt."""
        if usage.prompt_tokens and asked.prompt_chars:
            self.answers += 1
            weight = max(_LEARNING, 1.0 / (1 + self.answers))
            self.chars += weight * (asked.prompt_chars - self.chars)
            self.tokens += weight * (usage.prompt_tokens - self.tokens)


def admit(gateway: Gateway, asked: Asked) -> int:
    """The index of the model that is asked for.

    Raises:
        Refused: It cannot be.
    """
    if gateway.closing:
        raise Refused(503, "shutting_down", "The gateway is shutting down.", 5.0)
    if asked.model not in gateway.index:
        text = str(UnknownNameError("model", asked.model[:200], gateway.index))
        raise Refused(404, "model_not_found", text)
    model = gateway.index[asked.model]
    context = gateway.world.scenario.context_of(gateway.world.scenario.models[model])
    if asked.prompt_chars > _MOST_CHARS_PER_TOKEN * context:
        text = f"The prompt is far beyond the model's context of {context} tokens."
        raise Refused(413, "context_length_exceeded", text)
    failure = gateway.core.failure(model)
    if failure is not None:
        left_s = max(1.0, (failure.until_ns - gateway.now_ns()) * 1e-9)
        raise Refused(503, "model_failed", f"{gateway.names[model]} did not load: {failure.reason}", left_s)
    if gateway.core.queued(model) >= gateway.settings.max_queue:
        wait_s = predicted_wait_s(gateway.core, model)
        text = f"{gateway.settings.max_queue} requests wait for {gateway.names[model]} already."
        raise Refused(429, "queue_full", text, wait_s)
    return model
