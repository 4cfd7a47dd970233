"""Whatever is done to a trace, a reader says what the file holds, or why it cannot; never anything else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.envs.workload.trace_formats import FORMATS, WRITTEN
from shunter.envs.workload.traces import convert_trace, read_trace, write_trace
from shunter.errors import InputError, ShunterError
from tests.envs.test_trace_corpus import CORPUS
from tests.trace_files import MADE

ENDINGS = {"gateway": ".jsonl", "mooncake": ".jsonl", "shunter": ".parquet"}
HELD = {
    "aiperf": ("session",),
    "ragpulse": ("session",),
    "litellm": ("model", "session"),
    "llama-swap": ("model",),
}
"""Names that a made file holds beside the rest; those that we write hold what their columns say."""

NAMES = st.sampled_from(["", "a", "b", "7", "grün", "x,y", 'q"q'])
SAME_FOLDER = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def traces(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.integers(1, 8))

    def column(strategy: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(strategy, min_size=rows, max_size=rows))

    gaps_ms = np.array([0, *column(st.integers(2, 100_000))[1:]])
    return pd.DataFrame(
        {
            "arrival_s": gaps_ms.cumsum() / 1e3,
            "prompt_tokens": column(st.integers(1, 1_000_000)),
            "decode_tokens": column(st.integers(1, 100_000)),
            "model": column(NAMES),
            "session": column(NAMES),
        }
    )


def make(frame: pd.DataFrame, name: str, folder: Path) -> Path:
    path = folder / f"trace{ENDINGS.get(name, '.csv')}"
    if name in MADE:
        make_text, ending = MADE[name]
        path = folder / f"trace{ending}"
        path.write_text(make_text(frame), encoding="utf-8")
    else:
        write_trace(frame, path, format=name)
    return path


def check_same(read: pd.DataFrame, frame: pd.DataFrame, names: tuple[str, ...]) -> None:
    assert read["arrival_s"].tolist() == pytest.approx(frame["arrival_s"].tolist(), abs=1e-6)
    for column in ("prompt_tokens", "decode_tokens", *names):
        assert read[column].tolist() == frame[column].tolist(), column


DRESSES = {
    "as it is": lambda data: data,
    "with a mark": lambda data: b"\xef\xbb\xbf" + data,
    "in UTF-16": lambda data: data.decode().encode("utf-16"),
    "with Windows' line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "with blank lines": lambda data: b"\n" + data.replace(b"\n", b"\n\n") + b"\n  \n\n",
    "without a last line end": lambda data: data.rstrip(b"\n"),
    "gzipped under another name": gzip.compress,
}


@pytest.mark.parametrize("name", [*MADE, *WRITTEN])
@given(frame=traces(), dress=st.sampled_from(sorted(DRESSES)))
@SAME_FOLDER
def test_what_a_program_writes_is_read_however_it_is_dressed(
    name: str, frame: pd.DataFrame, dress: str, tmp_path: Path
) -> None:
    path = make(frame, name, tmp_path)
    if path.suffix != ".parquet":
        path.write_bytes(DRESSES[dress](path.read_bytes()))
    trace = read_trace(path)
    held = HELD.get(name, () if name in MADE else tuple({"model", "session"} & {*FORMATS[name].columns}))
    assert trace.format == name
    assert trace.notes == ()
    check_same(trace.frame, frame, held)


NO_NUMBERS = [
    None,
    True,
    False,
    "many",
    "",
    [],
    [5],
    {"value": 5},
    float("nan"),
    float("inf"),
    -1,
    "-1",
    1e300,
]
PATHS = {
    "mooncake.jsonl": ("timestamp", "input_length", "output_length"),
    "bailian.jsonl": ("timestamp", "input_length", "output_length"),
    "ragpulse.jsonl": ("timestamp", "input_length", "output_length"),
    "llmservingsim.jsonl": ("arrival_time_ns", "input_toks", "output_toks"),
    "litellm_payload.jsonl": ("prompt_tokens", "completion_tokens"),
    "shunter.jsonl": ("arrival_s", "prompt_tokens", "decode_tokens"),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in PATHS for key in PATHS[name]])
def test_a_value_that_is_no_number_is_refused_in_every_row(name: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / name
    lines = (CORPUS / name).read_text(encoding="utf-8").splitlines()
    for row, value in enumerate(NO_NUMBERS):
        changed = [json.loads(line) for line in lines]
        changed[row % len(lines)][key] = value
        path.write_text("\n".join(map(json.dumps, changed)))
        with pytest.raises(ShunterError) as caught:
            read_trace(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
@given(data=st.data())
@SAME_FOLDER
def test_damage_is_one_line_of_an_error_or_leaves_requests(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    whole = bytearray((CORPUS / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        end = at + data.draw(st.integers(0, 40))
        whole[at:end] = data.draw(
            st.binary(max_size=5) | st.sampled_from([b'"', b",", b"{", b"]", b"\n", b"1e9"])
        )
    path = tmp_path / name
    path.write_bytes(whole)
    try:
        trace = read_trace(path, mend=data.draw(st.booleans()))
    except ShunterError as error:
        assert "\n" not in str(error)  # noqa: PT017 # either outcome is right
    else:
        assert trace.frame["arrival_s"].is_monotonic_increasing
        assert (trace.frame[["prompt_tokens", "decode_tokens"]] >= 1).all(axis=None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_format_is_read_or_refused_in_a_line(name: str) -> None:
    for path in sorted(CORPUS.iterdir()):
        try:
            frame = read_trace(path, format=name).frame
        except ShunterError as error:
            assert "\n" not in str(error)  # noqa: PT017 # either outcome is right
        else:
            assert len(frame) == 6


@given(frame=traces(), source=st.sampled_from(WRITTEN), target=st.sampled_from(WRITTEN))
@settings(SAME_FOLDER, max_examples=60)
def test_conversion_keeps_what_the_target_holds_and_names_the_rest(
    frame: pd.DataFrame, source: str, target: str, tmp_path: Path
) -> None:
    read = read_trace(make(frame, source, tmp_path))
    path = tmp_path / f"out{ENDINGS.get(target, '.csv')}"
    said = " ".join(convert_trace(read, path, format=target))
    again = read_trace(path)
    held = tuple({"model", "session"} & {*FORMATS[target].columns})
    check_same(again.frame, read.frame, held)
    for column in ("model", "session"):
        is_lost = column not in held and read.frame[column].ne("").any()
        assert (f"{column} (" in said) == is_lost


@pytest.mark.parametrize("name", ["burstgpt_8_columns.csv", "mooncake.jsonl", "shunter.csv", "azure.csv"])
def test_in_its_own_format_a_trace_keeps_all_that_it_said(name: str, tmp_path: Path) -> None:
    read = read_trace(CORPUS / name)
    assert convert_trace(read, tmp_path / name, format=read.format) == []
    again = read_trace(tmp_path / name)
    pd.testing.assert_frame_equal(again.frame, read.frame)
    assert again.unread.astype(str).to_dict() == read.unread.astype(str).to_dict()


@pytest.mark.parametrize(
    "dates",
    [
        ("2026-03-01T23:59:59Z", "2026-03-02T00:00:00.5Z", "2026-03-02T00:01:00+00:00"),
        ("2026-03-01 23:59:59", "2026-03-02 00:00:00.500000", "2026-03-02 00:01:00.0"),
        ("2026-03-01 23:59:59+00", "2026-03-02 01:00:00.5+01", "2026-03-01 19:01:00-0500"),
    ],
)
@pytest.mark.parametrize(
    "name", ["timestamp,input_tokens,output_tokens", "arrived_at,num_prefill_tokens,num_decode_tokens"]
)
def test_dates_say_what_they_are_in_every_format(name: str, dates: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([name, *(f"{date},5,5" for date in dates)]))
    assert read_trace(path).frame["arrival_s"].tolist() == pytest.approx([0, 1.5, 61])
    with pytest.raises(InputError, match="must be left out for"):
        read_trace(path, time_unit="ms")


def chats(rate_per_s: float, count: int, **more: Any) -> str:
    rows = (
        {"timestamp": n / rate_per_s, "input_length": 50, "output_length": 9, "hash_ids": [n]}
        for n in range(count)
    )
    return "".join(json.dumps({**row, **more}) + "\n" for row in rows)


def test_mooncake_s_keys_with_chats_are_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "qwen.jsonl"
    path.write_text(chats(1.9, 400, chat_id=1, parent_chat_id=-1, type="text", turn=1))
    frame = read_trace(path).frame
    assert (len(frame) - 1) / np.ptp(frame["arrival_s"]) == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("count", "span_ms", "is_asked"),
    [
        (400, 210, True),
        (400, 999, True),
        (400, 1000, False),
        (50, 26, True),
        (50, 500, True),
        (50, 49 * 5, True),  # they were seconds, 5 from one to the next
        (50, 49 * 500_000, True),  # they were microseconds, half a second from one to the next
        (50, 49 * 20_000, False),
        (9, 9 * 500_000, False),
        (9, 1, False),
        (400, 210 * 10**9, True),  # they were nanoseconds
        (400, 399 * 86_400 * 10**3, True),
    ],
)
def test_an_implausible_rate_is_asked_about(count: int, span_ms: int, is_asked: bool, tmp_path: Path) -> None:
    times = np.linspace(0, span_ms, count).round().astype(int)
    rows = ({"timestamp": int(t), "input_length": 5, "output_length": 5, "hash_ids": []} for t in times)
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if is_asked:
        with pytest.raises(InputError, match=r"--time-unit .* must say s, ms, us or ns: .* in ms would be"):
            read_trace(path)
    assert len(read_trace(path, time_unit="ms").frame) == count
    assert len(read_trace(path, needs_arrivals=False).frame) == count


@pytest.mark.parametrize(
    "name", ["Timestamp,Request tokens,Response tokens", "arrived_at,num_prefill_tokens,num_decode_tokens"]
)
def test_milliseconds_where_seconds_are_usual_are_asked_about(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([name, *(f"{n * 700 + 0.5},5,5" for n in range(30))]))
    with pytest.raises(InputError, match=r"--time-unit .* in s would be 30 requests in 2\.03e\+04 s"):
        read_trace(path)
    assert np.ptp(read_trace(path, time_unit="ms").frame["arrival_s"]) == pytest.approx(29 * 0.7)


@pytest.mark.parametrize("broken", ["soon", None, [], ""])
def test_a_broken_time_is_told_before_a_unit_is_asked_for(broken: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    for times in ([1, broken, 3], [1.5, broken, 3.5]):
        rows = ({"timestamp": at, "input_length": 5, "output_length": 5, "hash_ids": []} for at in times)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(InputError, match=r"column timestamp, row 2 must be a time"):
            read_trace(path)
    with pytest.raises(InputError, match=r"--time-unit .* must be given"):
        read_trace(path, mend=True)


def test_seconds_since_1970_are_no_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = ({"timestamp": 1_700_000_000 + 9 * n, "input_length": 5, "output_length": 5} for n in range(40))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"--time-unit .* begins at 1700000000, which could be seconds"):
        read_trace(path)
    assert np.ptp(read_trace(path, time_unit="s").frame["arrival_s"]) == 9 * 39


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("startTime", {"call_type": "acompletion", "prompt_tokens": 5, "completion_tokens": 5}),
        ("timestamp", {"duration_ms": 9, "tokens": {"input_tokens": 5, "output_tokens": 5}}),
    ],
)
def test_a_log_in_milliseconds_since_1970_is_refused(key: str, more: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def write(unit_s: float) -> None:
        times = (round(1_700_000_000 / unit_s), round(1_700_000_009 / unit_s))
        path.write_text("".join(json.dumps({key: time, "model": "a", **more}) + "\n" for time in times))

    write(1e-3)
    with pytest.raises(InputError, match=f"{key}, row 1 must be a date, or seconds since 1970"):
        read_trace(path)
    write(1)
    assert np.ptp(read_trace(path).frame["arrival_s"]) == 9


def test_spaces_around_a_name_are_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s, prompt_tokens, decode_tokens, model, session\n0, 5, 5, a, \n1, 5, 5,a,s 1\n")
    frame = read_trace(path).frame
    assert frame["model"].tolist() == ["a", "a"]
    assert frame["session"].tolist() == ["", "s 1"]
