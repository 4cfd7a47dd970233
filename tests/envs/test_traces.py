from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from shunter.envs.workload.trace_formats import FORMATS, WRITTEN
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.errors import BrokenFileError, InputError, UnknownNameError

TRACE = pd.DataFrame(
    {
        "arrival_s": [0.0, 0.5, 0.5, 86_401.25],
        "prompt_tokens": [10, 1, 4000, 7],
        "decode_tokens": [5, 1, 2, 900],
        "model": ["small", "large", "small", "small"],
        "session": ["a", "a", "", "b"],
    }
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_written_is_read_back_and_recognised(name: str, gz: bool, tmp_path: Path) -> None:
    ending = {"mooncake": ".jsonl", "gateway": ".jsonl", "shunter": ".parquet"}.get(name, ".csv")
    path = tmp_path / ("trace" + ending + (".gz" if gz and ending != ".parquet" else ""))

    write_trace(TRACE, path, format=name)
    trace = read_trace(path)

    kept = [column for column in TRACE if column in FORMATS[name].columns]
    assert trace.format == name
    assert trace.notes == ()
    pd.testing.assert_frame_equal(trace.frame[kept], TRACE[kept])
    assert (trace.frame.drop(columns=kept) == "").all(axis=None)


def test_azure_times_count_from_the_first_request_whatever_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:47+00:00,396,109\n"
        "2023-11-16 18:16:46.680590,5,6\n"
    )

    assert read_trace(path).frame["arrival_s"].tolist() == pytest.approx([0.0, 0.31941, 60.0])


def test_burstgpt_is_read_with_six_and_with_eight_columns(tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
    )
    new.write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,17,1.5,GPT-4,472,18,490,Conversation log\n"
    )

    assert read_trace(old).frame.to_numpy().tolist() == [[5.0, 472, 18, "ChatGPT", ""]]
    assert read_trace(new).frame.to_numpy().tolist() == [[5.0, 472, 18, "GPT-4", "17"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1,1\n-1,1,1\n", "column arrived_at, row 2 must not be negative"),
        ("5,1,1\n4,1,1\n", "column arrived_at, row 2 must not be earlier than the row before"),
        ("0,0,1\n", "column num_prefill_tokens, row 1 must be at least 1"),
        ("0,1,0\n", "column num_decode_tokens, row 1 must be at least 1"),
        ("0,1.5,1\n", "column num_prefill_tokens, row 1 must be a whole number"),
        ("0,1,many\n", "Got 'many' instead"),
        ("05/16/2023 18:15,1,1\n", "row 1 must be a time .* Got '05/16/2023 18:15' instead"),
        ('"1,5",1,1\n', "row 1 must be a time .* Got '1,5' instead"),
        (
            "1700000000000,1,1\n1700000000500,1,1\n",
            "--time-unit .* must be a shorter one .ms, us, ns.: in s all",
        ),
        ("0,1,\n", "column num_decode_tokens, row 1 must be a whole number .* Got 'nothing readable'"),
        ("inf,1,1\n", "column arrived_at, row 1 must be a time"),
        ("0,1000000000,1\n", "must be at most 10,000,000"),
        ("", "must hold requests"),
    ],
)
def test_a_bad_row_is_named_with_its_rule_and_value(rows: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(VIDUR + rows)

    with pytest.raises(InputError, match=message):
        read_trace(path)


def test_dates_that_are_not_iso_are_shown_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n11/16/2023 18:15:46,10,20\n")

    with pytest.raises(InputError, match=r"TIMESTAMP, row 1 must be a time .* Got '11/16/2023 18:15:46'"):
        read_trace(path)


@pytest.mark.parametrize("arrival", ["arrival_ms", "time"])
def test_a_file_without_our_arrivals_is_told_that_it_lacks_them(arrival: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{arrival},prompt_tokens,decode_tokens\n1,2,3\n")

    with pytest.raises(InputError, match=r"columns must hold 'arrival_s'\. Got \['"):
        read_trace(path)


def test_answers_out_of_litellms_cache_are_counted_and_said(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    row = {"call_type": "acompletion", "model": "a", "prompt_tokens": 3, "completion_tokens": 4}
    rows = [row | {"startTime": f"2025-01-01T00:00:0{i}Z", "cache_hit": hit} for i, hit in enumerate("TFT")]
    hits = {"T": "True", "F": "False"}
    path.write_text(json.dumps([r | {"cache_hit": hits[r["cache_hit"]]} for r in rows]))

    trace = read_trace(path)

    assert len(trace.frame) == 3
    assert trace.notes == (
        f"{path}: 2 answers came from LiteLLM's cache, and count: no model was asked for them",
    )


def test_mending_says_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(VIDUR + "5.5,1,1\n4,2,2\n6,0,3\n7,1,zero\n")

    trace = read_trace(path, mend=True)

    assert trace.frame["prompt_tokens"].tolist() == [2, 1]
    assert [note.partition("column ")[2] for note in trace.notes] == [
        "num_decode_tokens must be a whole number: 1 rows left out",
        "num_prefill_tokens must be at least 1: 1 rows left out",
        "arrived_at must not be earlier than the row before: 1 rows put in order",
    ]


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress((VIDUR + "0,1,1\n" * 5000).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "other.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "images.csv").write_text("request_id,timestamp,text_tokens,output_tokens\n0,1,2,3\n")
    (tmp_path / "short.csv").write_text("arrived_at,num_prefill_tokens\n1,2\n")
    (tmp_path / "line.jsonl").write_text('{"timestamp": 1, "input_length": 1, "output_length": 1}\n{"timest')
    (tmp_path / "fake.parquet").write_bytes(b"PAR1 not really")

    for name, error, message in (
        ("cut.csv.gz", BrokenFileError, "cannot be read"),
        ("other.csv", InputError, "header of a known format"),
        ("images.csv", InputError, "hold 'input_tokens'"),
        ("short.csv", InputError, "hold 'num_decode_tokens'"),
        ("line.jsonl", BrokenFileError, "line 2 is no JSON"),
        ("fake.parquet", BrokenFileError, "cannot be read"),
        ("absent.csv", InputError, "existing file"),
    ):
        with pytest.raises(error, match=message):
            read_trace(tmp_path / name)
    with pytest.raises(UnknownNameError, match="did you mean azure"):
        read_trace(tmp_path / "other.csv", format="azur")
    with pytest.raises(InputError, match=r"--to .* must be given"):
        write_trace(TRACE, tmp_path / "trace.csv")


def test_a_million_token_prompt_is_a_request_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(VIDUR + "0,1000000,1\n")

    assert read_trace(path).frame["prompt_tokens"].tolist() == [1_000_000]


def gateway_line(arrival_s: float, status: str = "done", decode_tokens: int = 5, **more: object) -> str:
    line = {
        "arrival_s": arrival_s,
        "model": "small",
        "prompt_tokens": 10,
        "decode_tokens": decode_tokens,
        "session": "",
        "status": status,
    }
    return json.dumps({**line, **more}) + "\n"


def test_a_gateway_s_record_counts_from_its_first_request_and_leaves_out_what_was_not_answered(
    tmp_path: Path,
) -> None:
    lines = [
        gateway_line(1_795_984_660.5),
        gateway_line(1_795_984_650.25, decode_tokens=7),
        gateway_line(1_795_984_651.0, "cancelled", 3),
        gateway_line(1_795_984_652.0, "cancelled", 0),
        gateway_line(1_795_984_653.0, "waited_too_long", 0),
        '{"arrival_s":17959846',
    ]
    (tmp_path / "requests.jsonl").write_text("".join(lines))

    trace = read_trace(tmp_path)

    assert trace.format == "gateway"
    assert trace.frame["arrival_s"].tolist() == [0.0, 0.75, 10.25]
    assert trace.frame["decode_tokens"].tolist() == [7, 3, 5]
    assert [note.partition(": ")[2] for note in trace.notes] == [
        "1 half-written lines left out",
        "2 requests without a whole answer left out (1 cancelled, 1 waited_too_long)",
    ]


def test_a_record_without_a_whole_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text('{"arrival_s":17959846')
    with pytest.raises(BrokenFileError, match="no line is a whole request"):
        read_trace(tmp_path)
    (tmp_path / "requests.jsonl").write_text('{"arrival_s": 1.0, "model": "small"}\n')
    with pytest.raises(InputError, match="hold 'prompt_tokens'"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match="existing file"):
        read_trace(tmp_path.parent / "absent")
