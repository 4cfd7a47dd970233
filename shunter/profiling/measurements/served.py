"""From what clients of a server measured to operations: what a benchmark of serving says of single steps.

One request at a time is a prefill and its decode steps: the time to its first token, and the mean time
between tokens. With more at once, first tokens wait for others' steps, so that no prefill can be told. A
decode step then is the median time between tokens, as others' prefills are in the mean, and its batch is
Little's law: tokens per second times seconds per token, the requests that decode at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shunter.profiling.measurements.measurement import Measurement, ModelSaid, Reading

ALONE = 1.05
"""Most requests at a time, on average, that count as one."""


@dataclass(frozen=True)
class Served:
    """A run of a benchmark of serving; None where its file does not say.

    Attributes:
        place: File, or file and run.
        tool: Who measured, with its version.
        model: Name that the server has it under.
        engine: Name in the engine registry; empty: not said.
        measured_at: ISO 8601; empty: not said.
        concurrency: Most requests at a time that the clients sent.
        prompt_tokens: Mean.
        decode_tokens: Mean.
        output_tokens_per_s: Of all requests.
        first_token_s: Mean time to the first token.
        step_s: Mean time between tokens.
        step_p50_s: Median time between tokens.
        gpus: GPUs of the server, if the tool asked them.
        settings: What else the run depends on.
    """

    place: str
    tool: str
    model: str
    concurrency: float | None
    prompt_tokens: float | None
    decode_tokens: float | None
    output_tokens_per_s: float | None
    first_token_s: float | None
    step_s: float | None
    step_p50_s: float | None
    engine: str = ""
    measured_at: str = ""
    gpus: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


def operations(run: Served) -> Reading:
    """The prefill and the decode step that a run says something of, and why not of the others."""
    left_out: dict[str, str] = {}
    found = []
    alone = run.concurrency is not None and run.concurrency <= ALONE
    if run.prompt_tokens is None or run.decode_tokens is None:
        return Reading((), {run.place: "lengths of prompts and answers are not said"})
    prompt, decode = round(run.prompt_tokens), round(run.decode_tokens)
    if run.concurrency is None:
        left_out[f"{run.place}, first tokens"] = "how many requests ran at a time is not said"
    elif not alone:
        left_out[f"{run.place}, first tokens"] = "several requests at a time: first tokens wait for others"
    elif run.first_token_s is None:
        left_out[f"{run.place}, first tokens"] = "no time to the first token (streaming?)"
    elif prompt < 1:
        left_out[f"{run.place}, first tokens"] = "prompts are empty"
    else:
        found.append(_operation(run, "prefill", 1, prompt, 0, run.first_token_s))
    step_s = run.step_s if alone else run.step_p50_s
    if step_s is None or decode < 2:
        left_out[f"{run.place}, steps"] = "no time between tokens (streaming?)"
    elif alone:
        found.append(_operation(run, "decode", 1, prompt, decode, step_s))
    elif run.output_tokens_per_s is None or run.step_s is None:
        left_out[f"{run.place}, steps"] = "tokens per second are not said, so that the batch is unknown"
    else:
        batch = max(1, round(run.output_tokens_per_s * run.step_s))
        found.append(_operation(run, "decode", batch, prompt, decode, step_s))
    return Reading(tuple(found), left_out)


def _operation(
    run: Served, operation: str, batch: int, prompt: int, decode: int, duration_s: float
) -> Measurement:
    return Measurement(
        place=run.place,
        tool=run.tool,
        engine=run.engine,
        measured_at=run.measured_at,
        model=ModelSaid(text=run.model),
        operation=operation,
        batch=batch,
        prompt_tokens=prompt,
        decode_tokens=decode,
        duration_s=(duration_s,),
        gpus=run.gpus,
        backend="",
        settings=run.settings,
        is_mean=True,
    )
