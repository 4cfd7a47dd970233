"""The gateway under load, over fake servers: a model that never loads, crowds, an hour's requests, delay."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray

from benchmarks.form import Row, at_most, reported
from benchmarks.serve_cancel import until
from benchmarks.serve_site import Site, fake_scenario, open_site

__all__ = ["added_rows", "broken_rows", "crowd_rows", "memory_rows"]

Floats = NDArray[np.float64]
RESAMPLES = 2000
RATIO_BAR = 1.05
GROWTH_BAR_MB = 5.0
ADDED_P50_BAR_MS = 3.0
ADDED_P99_BAR_MS = 10.0
DECISION_BAR_MS = 1.0


async def timed(site: Site, model: str, **fields: Any) -> tuple[int, float]:
    """Status of a request, and the seconds that it took."""
    begun_s = time.monotonic()
    async with site.post(model, **fields) as answer:
        await answer.read()
        return answer.status, time.monotonic() - begun_s


# One model that never loads


async def broken_rows(folder: Path, *, pairs: int, window_s: float, rate_per_s: float = 12.0) -> list[Row]:
    """The others' p99 with requests for a model that never loads, against the same requests without."""
    models = {
        "a": {"args": ["--tokens", "16", "--step-s", "0.005"]},
        "b": {"args": ["--tokens", "16", "--step-s", "0.005"]},
        "broken": {"args": ["--fail", "load", "--load-s", "0.2"]},
    }
    without: list[Floats] = []
    beside: list[Floats] = []
    async with open_site(folder, fake_scenario(folder, models)) as site:
        await site.warm("a")
        await site.warm("b")
        for pair in range(pairs):
            for is_beside in (False, True) if pair % 2 == 0 else (True, False):
                found = await _window(site, pair, window_s, rate_per_s, is_beside=is_beside)
                (beside if is_beside else without).append(found)
            await asyncio.sleep(0.2)
        refused = (await site.model("broken"))["failed"]
    ratio = _p99(np.concatenate(beside)) / _p99(np.concatenate(without))
    interval = _ratio_interval(beside, without)
    note = (
        f"{pairs} pairs of {window_s:g} s at {rate_per_s:g} requests/s; p99 without "
        f"{1e3 * _p99(np.concatenate(without)):.0f} ms; {refused} requests for it failed after waiting"
    )
    row = reported(
        "p99 of others beside a model that never loads, ratio", ratio, interval=interval, note=note
    )
    judged = at_most(row, RATIO_BAR)
    if interval[0] <= 1.0 <= interval[1]:
        judged = at_most(Row(**{**vars(row), "note": f"{note}; the interval holds 1"}), max(ratio, RATIO_BAR))
    return [judged]


async def _window(site: Site, seed: int, window_s: float, rate_per_s: float, *, is_beside: bool) -> Floats:
    """Seconds that each request of the other models took."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / rate_per_s, max(1, round(window_s * rate_per_s))))
    model = rng.choice(["a", "b", "broken"], len(at_s), p=[0.4, 0.4, 0.2])
    begun_s = time.monotonic()

    async def one(at_s: float, model: str) -> tuple[int, float] | None:
        await asyncio.sleep(max(0.0, begun_s + at_s - time.monotonic()))
        if model != "broken":
            return await timed(site, model)
        if is_beside:
            await timed(site, model)
        return None

    found = await asyncio.gather(*(one(float(t), str(m)) for t, m in zip(at_s, model, strict=True)))
    answered = [one for one in found if one is not None]
    assert all(status == 200 for status, _ in answered), "a request for another model failed"
    return np.array([seconds for _, seconds in answered])


def _p99(values: Floats) -> float:
    return float(np.quantile(values, 0.99))


def _ratio_interval(over: Sequence[Floats], under: Sequence[Floats]) -> tuple[float, float]:
    """95 % of the ratio of p99s, pairs drawn anew and requests within them too."""
    rng, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(over), len(over))
        first, second = (
            _p99(np.concatenate([rng.choice(windows[k], len(windows[k])) for k in drawn]))
            for windows in (over, under)
        )
        found.append(first / second)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


# Crowds, and an hour's requests


async def crowd_rows(folder: Path, *, crowd: int = 2000, max_queue: int = 512) -> list[Row]:
    """How many of a crowd that comes at once are turned away with 429."""
    slots = 4
    models = {"slow": {"args": ["--tokens", "1000", "--step-s", "1"]}}
    wanted = crowd - max_queue - slots
    async with open_site(folder, fake_scenario(folder, models), "--max-queue", str(max_queue)) as site:
        await site.warm("slow")
        statuses: Counter[int] = Counter()

        async def one() -> None:
            async with site.post("slow", stream=True) as answer:
                statuses[answer.status] += 1
                await answer.read()

        tasks = [asyncio.create_task(one()) for _ in range(crowd)]

        async def is_settled() -> bool:
            now = await site.model("slow")
            there = now["queued"] + now["running"]
            return bool(there + sum(n for code, n in statuses.items() if code != 200) == crowd)

        seconds = await until(is_settled, 120.0)
        refused = statuses[429]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        async def is_empty() -> bool:
            now = await site.model("slow")
            return bool(now["queued"] + now["running"] == 0)

        emptied_s = await until(is_empty, 60.0)
    others = {code: n for code, n in statuses.items() if code not in (200, 429)}
    note = f"{refused} of {crowd}, {wanted} expected; settled in {seconds:.1f} s"
    note += f"; all left, and forgotten in {emptied_s:.1f} s" + (f"; others: {others}" if others else "")
    off = reported("429 of a crowd at once, off the exact count", abs(refused - wanted), note=note)
    return [at_most(off, 0)]


async def memory_rows(folder: Path, *, warm_up: int, requests: int, longest_s: float) -> list[Row]:
    """How much the gateway's process grows over many requests."""
    models = {name: {"args": ["--tokens", "4", "--step-s", "0.0005"]} for name in ("a", "b")}
    record = ("--record", str(folder / "record"))
    async with open_site(folder, fake_scenario(folder, models), *record) as site:
        await site.warm("a")
        await site.warm("b")
        process = psutil.Process(site.pid)
        await _many(site, warm_up, longest_s)
        before, begun_s = process.memory_full_info().uss, time.monotonic()
        done = await _many(site, requests, longest_s)
        seconds = time.monotonic() - begun_s
        grown_mb = (process.memory_full_info().uss - before) / 1e6
    note = (
        f"{done} requests of {requests} in {seconds:.0f} s ({done / seconds:.0f} a second), recorded, half "
        f"of them streamed, after {warm_up} to warm up; {before / 1e6:.0f} MB before, its own pages"
    )
    return [at_most(reported("growth of the gateway's memory", grown_mb, "MB", note=note), GROWTH_BAR_MB)]


async def _many(site: Site, count: int, longest_s: float, workers: int = 32) -> int:
    """So many requests by so many clients, each after the other; returns how many got an answer."""
    left, done, until_s = count, 0, time.monotonic() + longest_s

    async def work(worker: int) -> None:
        nonlocal left, done
        while left > 0 and time.monotonic() < until_s:
            left -= 1
            status, _ = await timed(site, "ab"[worker % 2], max_tokens=4, stream=left % 2 == 0)
            done += status == 200

    await asyncio.gather(*map(work, range(workers)))
    return done


# Added time


async def added_rows(
    folder: Path, policy: Path, *, probes: int, streams: int = 32, step_s: float = 0.02
) -> list[Row]:
    """What the gateway adds to the time to first token while it carries streams, and how long it decides.

    Probes go to a model of their own, whose server answers at once: through the gateway and to the server
    itself, one after the other, in changing order, while the streams run.
    """
    background = ["--tokens", "100000", "--step-s", f"{step_s:g}", "--step-growth", "0"]
    models: dict[str, dict[str, Any]] = {
        "streams": {"args": background, "max_batch": streams},
        "probe": {"args": ["--tokens", "2", "--step-s", "0.0002"]},
    }
    shutil.rmtree(folder / "record", ignore_errors=True)  # of a run before
    options = ("--record", str(folder / "record"), "--policy", str(policy))
    async with open_site(folder, fake_scenario(folder, models), *options) as site:
        server = await site.warm("probe")
        await site.warm("streams")
        pieces = [0]
        tasks = [asyncio.create_task(_stream(site, pieces)) for _ in range(streams)]
        await until(lambda: _all_run(site, streams))
        begun_s, before = time.monotonic(), pieces[0]
        through: list[float] = []
        direct: list[float] = []
        for probe in range(probes):
            for is_direct in (False, True) if probe % 2 == 0 else (True, False):
                url = server if is_direct else site.url
                (direct if is_direct else through).append(await _first_s(site, url))
            await asyncio.sleep(0.01)
        carried = (pieces[0] - before) / (time.monotonic() - begun_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    note = f"{probes} pairs beside {streams} streams, together {carried:.0f} pieces a second"
    return [*_added(np.array(through), np.array(direct), note), _decisions(folder / "record")]


async def _all_run(site: Site, streams: int) -> bool:
    return bool((await site.model("streams"))["running"] == streams)


async def _stream(site: Site, pieces: list[int]) -> None:
    async with site.post("streams", stream=True) as answer:
        async for _ in answer.content.iter_any():
            pieces[0] += 1


async def _first_s(site: Site, url: str) -> float:
    """Seconds until a probe's first piece."""
    begun_s = time.monotonic()
    async with site.post("probe", url=url, stream=True) as answer:
        await answer.content.readany()
        first_s = time.monotonic() - begun_s
        await answer.read()
    return first_s


def _added(through: Floats, direct: Floats, note: str) -> list[Row]:
    """Rows of what the gateway adds: pairs for the median, the difference of quantiles for the tail."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(direct), (RESAMPLES, len(direct)))

    def quantiles(q: float) -> Floats:
        return np.asarray(np.quantile(through[draws], q, axis=1) - np.quantile(direct[draws], q, axis=1))

    pairs_ms = 1e3 * (through - direct)
    medians = np.median(pairs_ms[draws], axis=1)
    p99_ms = 1e3 * float(np.quantile(through, 0.99) - np.quantile(direct, 0.99))
    tail = (
        f"p99 through the gateway less p99 of the server; {1e3 * np.quantile(through, 0.99):.1f} ms and "
        f"{1e3 * np.quantile(direct, 0.99):.1f} ms; p99 of pairs {np.quantile(pairs_ms, 0.99):.1f} ms"
    )
    return [
        at_most(
            reported(
                "added time to first token, p50",
                float(np.median(pairs_ms)),
                "ms",
                interval=_ends(medians),
                note=f"median of pairs; {note}; the server itself {1e3 * np.median(direct):.1f} ms",
            ),
            ADDED_P50_BAR_MS,
        ),
        at_most(
            reported(
                "added time to first token, p99",
                p99_ms,
                "ms",
                interval=_ends(1e3 * quantiles(0.99)),
                note=tail,
            ),
            ADDED_P99_BAR_MS,
        ),
    ]


def _ends(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _decisions(record: Path) -> Row:
    """How long decisions took, the first few aside, for which code was loaded."""
    logs = [pd.read_parquet(path, columns=["decision_s"]) for path in sorted(record.glob("events-*.parquet"))]
    took_ms = 1e3 * pd.concat(logs).decision_s.dropna().to_numpy()[20:]
    note = f"{len(took_ms)} decisions of the shipped policy; median {np.median(took_ms):.2f} ms"
    return at_most(
        reported("decision, p99", float(np.quantile(took_ms, 0.99)), "ms", note=note), DECISION_BAR_MS
    )
