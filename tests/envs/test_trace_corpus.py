"""Small files in every format that traces come in, the same six requests in each, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.workload import Replay, Workload
from shunter.envs.workload.draw import replay_rate_per_s
from shunter.envs.workload.lengths import length_pairs
from shunter.envs.workload.trace_formats import FORMATS
from shunter.envs.workload.traces import read_trace
from shunter.errors import ShunterError

CORPUS = Path(__file__).parents[1] / "corpus" / "traces"

ARRIVALS_S = [0, 0.5, 2, 3.25, 6, 10]
WHOLE_S = [0, 1, 2, 3, 6, 10]
PROMPTS, ANSWERS = [100, 20, 300, 40, 500, 60], [10, 20, 30, 40, 50, 60]
SESSIONS, WITH_D = ["a", "a", "b", "", "b", "c"], ["a", "a", "b", "d", "b", "c"]
MODELS = ["small", "large", "small", "small", "large", "small"]
NONE = [""] * 6


@dataclass(frozen=True)
class Holds:
    """What a file holds; of the six requests where nothing else is said."""

    format: str
    arrivals_s: list[float]
    models: list[str]
    sessions: list[str]
    unread: str = ""
    notes: tuple[str, ...] = ()


FILES = {
    "azure.csv": Holds("azure", ARRIVALS_S, NONE, NONE),
    "burstgpt_6_columns.csv": Holds("burstgpt", ARRIVALS_S, MODELS, NONE, "Total tokens, Log Type"),
    "burstgpt_8_columns.csv": Holds(
        "burstgpt", ARRIVALS_S, MODELS, SESSIONS, "Elapsed time, Total tokens, Log Type"
    ),
    "mooncake.jsonl": Holds("mooncake", ARRIVALS_S, NONE, NONE, "hash_ids"),
    "mooncake_with_sessions_mark_and_blank_lines.jsonl": Holds(
        "mooncake", ARRIVALS_S, NONE, SESSIONS, "hash_ids"
    ),
    "mooncake_utf16.jsonl": Holds("mooncake", ARRIVALS_S, NONE, NONE, "hash_ids"),
    "bailian.jsonl": Holds("bailian", ARRIVALS_S, NONE, list("002325"), "type, turn, hash_ids"),
    "ragpulse.jsonl": Holds("ragpulse", WHOLE_S, NONE, WITH_D, "hash_ids"),
    "vidur.csv": Holds("vidur", ARRIVALS_S, NONE, NONE),
    "servegen.csv": Holds("servegen", ARRIVALS_S, NONE, NONE, "request_id"),
    "splitwise.csv": Holds(
        "splitwise", ARRIVALS_S, NONE, NONE, "request_id, request_type, application_id, batch_size"
    ),
    "llmservingsim.jsonl": Holds("llmservingsim", ARRIVALS_S, NONE, NONE, "input_tok_ids"),
    "llmservingsim.tsv": Holds("llmservingsim", ARRIVALS_S, NONE, NONE),
    "vllm.json": Holds(
        "vllm",
        ARRIVALS_S,
        ["small"] * 6,
        NONE,
        "ttfts, itls, generated_texts",
        ("1 requests that failed left out",),
    ),
    "aiperf.jsonl": Holds(
        "aiperf",
        ARRIVALS_S,
        NONE,
        WITH_D,
        "metadata.session_num, metadata.x_request_id, metadata.turn_index, metadata.request_end_ns, "
        "metadata.benchmark_phase, metadata.was_cancelled, metrics.request_latency",
        ("1 requests that failed left out", "1 requests that were no part of the measurement left out"),
    ),
    "litellm_spend_logs.json": Holds(
        "litellm",
        ARRIVALS_S,
        MODELS,
        SESSIONS,
        "request_id, call_type, api_key, spend, total_tokens, endTime, status",
        ("1 requests that failed left out",),
    ),
    "litellm_payload.jsonl": Holds(
        "litellm", ARRIVALS_S, MODELS, SESSIONS, "id, call_type, status, total_tokens, endTime"
    ),
    "llama_swap.json": Holds(
        "llama-swap",
        ARRIVALS_S,
        MODELS,
        NONE,
        "id, req_path, resp_content_type, resp_status_code, has_capture",
        (
            "8 cached tokens not added to prompts: llama-server leaves them out there, others count them in",
            "1 requests that failed left out",
        ),
    ),
    "llama_swap_first_version.json": Holds(
        "llama-swap",
        ARRIVALS_S,
        MODELS,
        NONE,
        "id, cache_tokens, input_tokens, output_tokens, prompt_per_second, tokens_per_second",
    ),
    "shunter.csv": Holds("shunter", ARRIVALS_S, MODELS, SESSIONS),
    "shunter.jsonl": Holds("shunter", ARRIVALS_S, MODELS, SESSIONS),
    "gateway.jsonl": Holds(
        "gateway",
        ARRIVALS_S,
        MODELS,
        SESSIONS,
        notes=(
            "1 half-written lines left out",
            "1 requests without a whole answer left out (1 failed)",
        ),
    ),
}

LENGTHS = {"sharegpt_lengths.csv": "vidur-lengths", "servegen_offline.jsonl": "servegen-offline"}

REFUSED = {
    "refused_delays.jsonl": "delay, row 2 must not be given: it counts from an answer",
    "refused_sessions_of_calls.jsonl": "sub_requests, row 1 must not be given",
    "refused_unit_open_fractions.jsonl": "--time-unit .* must be given",
    "refused_unit_open_texts.jsonl": "--time-unit .* must be given",
    "refused_unit_open_other_keys.jsonl": "--time-unit .* must be given",
    "refused_unit_open.csv": "--time-unit .* must be given",
    "refused_whole_vidur.csv": "all arrivals of .* are whole numbers, where vidur has parts of a s",
    "refused_whole_servegen.csv": "are whole numbers, where servegen has",
    "refused_whole_splitwise.csv": "are whole numbers, where splitwise has",
    "refused_whole_bailian.jsonl": "are whole numbers, where bailian has",
    "refused_sharegpt.json": "must hold token counts: it is ShareGPT's text",
    "refused_vllm_without_details.json": "--save-detailed",
    "refused_vllm_two_runs.json": "must hold one run",
    "refused_ragged.csv": "Expected 3 columns, got 2",
    "refused_name_twice.csv": "must name every column once",
    "refused_batches.csv": "batch_size, row 1 must be 1",
    "refused_hashes_alone.jsonl": "must hold output lengths",
    "sharegpt_lengths.csv": "must hold arrivals: lengths alone serve as workload.lengths",
    "servegen_offline.jsonl": "must hold arrivals",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_the_six_requests(name: str) -> None:
    expected = FILES[name]
    trace = read_trace(CORPUS / name)
    frame = trace.frame

    assert trace.format == expected.format
    assert frame["arrival_s"].tolist() == pytest.approx(expected.arrivals_s, abs=1e-6)
    assert frame["prompt_tokens"].tolist() == PROMPTS
    assert frame["decode_tokens"].tolist() == ANSWERS
    assert frame["model"].tolist() == expected.models
    assert frame["session"].tolist() == expected.sessions
    assert ", ".join(trace.unread) == expected.unread
    assert tuple(note.partition(": ")[2] for note in trace.notes) == expected.notes
    assert len(trace.unread) in (0, len(frame)) or not len(trace.unread.columns)


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_without_arrivals_serve_where_no_arrivals_are_asked_for(name: str) -> None:
    trace = read_trace(CORPUS / name, needs_arrivals=False)
    assert trace.format == LENGTHS[name]
    assert trace.frame["prompt_tokens"].tolist() == PROMPTS
    assert trace.frame["decode_tokens"].tolist() == ANSWERS
    workload = Workload(rate_per_s=1.0, lengths=CORPUS / name)
    assert length_pairs(workload, Limits(context_tokens=4096))[:, 0].tolist() == PROMPTS


def test_a_replay_takes_a_unit_where_the_file_leaves_it_open() -> None:
    file = CORPUS / "refused_unit_open.csv"
    assert replay_rate_per_s(Workload(replay=Replay(file=file, time_unit="ms"))) == pytest.approx(500)
    with pytest.raises(ShunterError, match="time_unit of a replay"):
        replay_rate_per_s(Workload(replay=Replay(file=file)))


@pytest.mark.parametrize("mend", [False, True], ids=["strict", "mended"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_trace_is_refused_by_name_mended_or_not(name: str, mend: bool) -> None:
    with pytest.raises(ShunterError, match=REFUSED[name]):
        read_trace(CORPUS / name, mend=mend)


def test_every_file_and_every_format_is_spoken_of() -> None:
    assert {path.name for path in CORPUS.iterdir()} == {*FILES, *LENGTHS, *REFUSED}
    assert {of.format for of in FILES.values()} | {*LENGTHS.values()} == {*FORMATS}


@pytest.mark.parametrize(
    ("name", "unit", "span_s"),
    [
        ("refused_unit_open_fractions.jsonl", "s", 10),
        ("refused_unit_open_texts.jsonl", "s", 10),
        ("refused_unit_open_other_keys.jsonl", "ms", 0.01),
        ("refused_unit_open.csv", "s", 10),
        ("vidur.csv", "us", 1e-5),
        ("mooncake.jsonl", "s", 10_000),
        ("refused_whole_vidur.csv", "ms", 10),
        ("refused_whole_servegen.csv", "ms", 10),
        ("refused_whole_splitwise.csv", "ms", 10),
        ("refused_whole_bailian.jsonl", "ms", 10),
    ],
)
def test_a_unit_that_is_given_is_taken(name: str, unit: str, span_s: float) -> None:
    frame = read_trace(CORPUS / name, time_unit=unit).frame  # type: ignore[arg-type]
    assert frame["arrival_s"].iloc[-1] == pytest.approx(span_s)


@pytest.mark.parametrize("name", ["azure.csv", "shunter.csv", "aiperf.jsonl", "vllm.json", "gateway.jsonl"])
def test_a_unit_is_not_taken_where_the_file_says_its_own(name: str) -> None:
    with pytest.raises(ShunterError, match="be left out for"):
        read_trace(CORPUS / name, time_unit="ms")
