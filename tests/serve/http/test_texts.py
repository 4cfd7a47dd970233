"""Texts of requests and answers, which are written down only where that is asked for."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from shunter.errors import ShunterError
from shunter.serve.http.texts import MOST_BYTES, Exchange, TextLog
from tests.serve.http.stub import play, running
from tests.serve.http.test_relay import CHAT


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_bodies_and_answers_are_written_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"

    async def scene() -> None:
        async with running(text_log=path) as run:
            run.upstream.pieces = ['{"text": "ä"}'.encode()]
            async with run.client.post("/v1/completions", data='{"model": "small", "prompt": "ö"}'.encode()):
                pass
            run.upstream.streams(*CHAT)
            async with run.post(stream=True) as got:
                streamed.append((await got.read()).decode())

    streamed: list[str] = []
    play(scene)
    whole, stream = lines(path)
    assert whole["request"] == '{"model": "small", "prompt": "ö"}'
    assert (whole["answer"], whole["status"], whole["endpoint"]) == ('{"text": "ä"}', 200, "/v1/completions")
    assert (stream["answer"], stream["id"]) == (streamed[0], 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_refused_and_who_leaves_are_written_too(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"

    async def scene() -> None:
        async with running(text_log=path) as run:
            async with run.post(model="none") as got:
                answers.append(await got.text())
            async with run.client.post("/v1/completions", data=b"no JSON \xff") as got:
                answers.append(await got.text())
            run.upstream.streams(*CHAT)
            run.upstream.hangs = True
            async with run.post(stream=True) as got:
                for piece in run.upstream.pieces:
                    assert (await got.content.readchunk())[0] == piece
            await asyncio.wait_for(run.stub.ended.wait(), 5)

    answers: list[str] = []
    play(scene)
    unknown, broken, left = lines(path)
    assert [unknown["answer"], broken["answer"]] == answers
    assert [unknown["status"], broken["status"], left["status"]] == [404, 400, 499]
    assert [unknown["id"], broken["id"], left["id"]] == [None, None, 0]
    assert broken["request"] == "no JSON \\xff"
    assert "Hel" in left["answer"]


def test_an_error_in_mid_stream_is_part_of_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"

    async def scene() -> None:
        async with running(text_log=path) as run:
            run.upstream.streams(*CHAT)
            run.upstream.breaks_after = 2
            async with run.post(stream=True) as got:
                sent.append((await got.read()).decode())

    sent: list[str] = []
    play(scene)
    (line,) = lines(path)
    assert (line["answer"], line["status"]) == (sent[0], 502)
    assert "server_error" in line["answer"]


def test_what_is_long_is_cut_with_a_mark(tmp_path: Path) -> None:
    exchange = Exchange("/v1/completions", "ä".encode() * MOST_BYTES)
    exchange.add(b"a" * (MOST_BYTES - 1))
    exchange.add("ö and more".encode())
    exchange.add(b"even more")
    line = exchange.line()
    request, answer = str(line["request"]), str(line["answer"])
    assert request == "ä" * (MOST_BYTES // 2) + f"[cut: {MOST_BYTES} bytes more]"
    assert answer == "a" * (MOST_BYTES - 1) + f"[cut: {len('ö and more'.encode()) - 1 + 9} bytes more]"


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("{}")
    path.chmod(0o644)
    log = TextLog(path)
    with log.exchange("/v1/completions", b"{}"):
        pass
    log.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(lines(path)) == 2
    with pytest.raises(ShunterError, match="cannot be written"):
        TextLog(tmp_path)


class _Full(NamedTuple):
    file: IO[str]

    def fileno(self) -> int:
        return self.file.fileno()

    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_stops_no_request_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = TextLog(tmp_path / "texts.jsonl")
    file = log._lines._file
    log._lines._file = _Full(file)  # type: ignore[assignment]
    for _ in range(2):
        with log.exchange("/v1/completions", b"prompt"):
            pass
    file.close()
    assert caplog.text.count("No space left on device") == 1
    assert "prompt" not in caplog.text
