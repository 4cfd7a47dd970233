"""Results of ``vllm bench``: serve, latency, throughput, and the records of PyTorch's benchmark format.

A latency is that of a whole batch, prompt and answer together. Two of them that differ in the answer's length
say what a step takes, and one of a single token what the prompt takes. Its own file does not say the
lengths: ``SAVE_TO_PYTORCH_BENCHMARK_FORMAT=1`` has vLLM write a file beside it that does. A throughput mixes
prompts and answers of batches that it does not say.

Source: vllm/benchmarks/{serve,latency,throughput}.py and lib/utils.py of vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any

from shunter.profiling.measurements.measurement import Fields, Measurement, ModelSaid, Reading
from shunter.profiling.measurements.served import Served, operations

THROUGHPUT = (
    "a throughput mixes prompts and answers of batches that it does not say; vllm bench serve with "
    "--max-concurrency 1 tells them apart"
)
_LENGTHS = "its file says neither lengths nor batch: give --prompt-tokens, --decode-tokens and --batch"
_PAIR = (
    "it is prompt and answer together: import it with another of the same prompts and batch whose answers "
    "are of one token (--output-len 1), or shorter"
)


@dataclass(frozen=True)
class Latency:
    """Latencies of a batch from its prompts to its last tokens.

    Attributes:
        place: File.
        latencies_s: One for each repeat.
        model: Empty: not said.
        shape: Batch, prompt tokens and tokens of an answer; None: not said.
        quantization: Empty: not said.
        settings: What else they depend on.
    """

    place: str
    latencies_s: tuple[float, ...]
    model: str = ""
    shape: tuple[int, int, int] | None = None
    quantization: str = ""
    settings: Mapping[str, str] | None = None


def read_serve(path: str, record: Mapping[str, Any]) -> Reading:
    """What ``vllm bench serve --save-result`` says of single operations.

    Raises:
        InputError: A value is no number, or not possible.
    """
    run = Fields(path, record)
    completed = run.count("completed")
    if not completed:
        return Reading((), {path: "no request was completed"})
    if run.has("spec_decode_acceptance_length"):
        return Reading((), {path: "speculative decoding: a step gives several tokens"})

    def seconds(name: str) -> float | None:
        return run.number(name) / 1e3 if run.has(name) and run.number(name) > 0 else None

    backend = run.text("backend") or run.text("endpoint_type")
    served = Served(
        place=path,
        tool="vllm bench serve",
        model=run.text("model_id"),
        # Other backends name a protocol that any server may speak.
        engine="vllm" if backend == "vllm" else "",
        measured_at=_date(run.text("date")),
        concurrency=run.number("max_concurrency", 1) if run.has("max_concurrency") else None,
        prompt_tokens=run.number("total_input_tokens") / completed,
        decode_tokens=run.number("total_output_tokens") / completed,
        output_tokens_per_s=run.number("output_throughput") if run.has("output_throughput") else None,
        first_token_s=seconds("mean_ttft_ms"),
        step_s=seconds("mean_tpot_ms"),
        step_p50_s=seconds("median_itl_ms"),
    )
    return operations(served)


def read_latency(path: str, record: Mapping[str, Any]) -> Latency:
    """What ``vllm bench latency --output-json`` says: latencies, and not of what.

    Raises:
        InputError: A value is no number, or not possible.
    """
    run = Fields(path, record)
    return Latency(path, run.numbers("latencies") or (run.above_zero("avg_latency"),))


def read_pytorch(path: str, records: Iterable[Mapping[str, Any]]) -> tuple[list[Latency], Reading]:
    """What the records that vLLM writes for PyTorch's benchmark database say.

    Raises:
        InputError: A value is no number, or not possible.
    """
    found, left_out = [], {}
    for number, record in enumerate(records):
        row = Fields(f"{path}: row {number}", record)
        metric, args = row.part("metric"), row.part("benchmark", "extra_info", "args")
        if metric.text("name") != "latency":
            left_out[row.place] = THROUGHPUT
            continue
        dtype = args.text("quantization") or args.text("dtype")
        parallel = args.count("tensor_parallel_size", missing=1)
        if parallel > 1:
            left_out[row.place] = f"split over {parallel} GPUs by tensors: datasets know splits by layers"
            continue
        shape = tuple(args.count(name, least=1) for name in ("batch_size", "input_len", "output_len"))
        found.append(
            Latency(
                row.place,
                metric.numbers("benchmark_values"),
                row.part("model").text("name"),
                (shape[0], shape[1], shape[2]),
                "" if dtype == "auto" else dtype,
            )
        )
    return found, Reading((), left_out)


def told_apart(latencies: Iterable[Latency], shape: tuple[int, int, int] | None) -> Reading:
    """Prefills and decode steps of latencies that were read together.

    Args:
        latencies: All of one import.
        shape: Batch, prompt tokens and answer tokens of those whose files do not say them.
    """
    known = [replace(one, shape=one.shape or shape) for one in latencies]
    measurements, left_out = [], {one.place: _LENGTHS for one in known if one.shape is None}
    whole = [one for one in known if one.shape is not None]
    for one in whole:
        batch, prompt, answer = one.shape or (0, 0, 0)
        same = [
            other
            for other in whole
            if (other.model, other.quantization) == (one.model, one.quantization)
            and other.shape is not None
            and other.shape[:2] == (batch, prompt)
            and other.shape[2] < answer
        ]
        if answer == 1 and batch == 1:
            measurements.append(_of(one, "prefill", one.latencies_s))
        elif answer == 1:
            left_out[one.place] = "prompts of several requests at once: datasets know one, and its steps"
        elif not same:
            left_out[one.place] = _PAIR
        else:
            shorter = min(same, key=lambda other: other.shape or (0, 0, 0))
            more = answer - (shorter.shape or (0, 0, 0))[2]
            step_s = (median(one.latencies_s) - median(shorter.latencies_s)) / more
            if step_s > 0:
                measurements.append(_of(one, "decode", (step_s,)))
            else:
                left_out[one.place] = f"it is no longer than {shorter.place}, of shorter answers"
    return Reading(tuple(measurements), left_out)


def _of(one: Latency, operation: str, durations_s: tuple[float, ...]) -> Measurement:
    batch, prompt, answer = one.shape or (0, 0, 0)
    return Measurement(
        place=one.place,
        tool="vllm bench latency",
        engine="vllm",
        model=ModelSaid(text=one.model, quantization=one.quantization),
        operation=operation,
        batch=batch,
        prompt_tokens=prompt,
        decode_tokens=0 if operation == "prefill" else answer,
        duration_s=durations_s,
        is_mean=operation == "decode",
    )


def _date(text: str) -> str:
    """vLLM's ``20260131-235959``, in local time of a place that it does not say, as ISO 8601."""
    try:
        return datetime.strptime(text, "%Y%m%d-%H%M%S").isoformat()
    except ValueError:
        return text
