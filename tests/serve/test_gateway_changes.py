"""Another scenario while requests run: only what changed is started again, and no request is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from shunter.errors import InputError
from shunter.eval.execution.event_log import read_event_log
from shunter.serve.boundary import Launch, Server, ServerFailed
from shunter.serve.gateway.record import Recorder
from tests.serve.gateways import play, running, until, world

RUNS = {"args": ["--step-s", "0.02", "--tokens", "20"]}


def test_only_what_changed_is_started_again(tmp_path: Path) -> None:
    async def scene() -> None:
        before = world("small", "other", small=RUNS)
        after = world("big", "other", "small", small=RUNS, other={"args": ["--tokens", "2"]})
        async with running(before, recorder=Recorder(tmp_path, before, "cost-greedy")) as run:
            await run.ask("other")
            asked = [asyncio.create_task(run.ask("small")) for _ in range(4)]
            await until(lambda: len(run.tasks("small")) == 2, "two run and two wait")
            lines = await run.gateway.change_world(after)
            assert lines == ["other on gpu0 is unloaded", "big is new"]
            assert {(await task).status for task in asked} == {200}
            assert len(run.servers("small")) == 1, "its server went on"
            assert (await run.ask("other")).body["usage"]["completion_tokens"] == 2
            assert (await run.ask("big")).status == 200
            small = run.servers("small")[0]
            if small.pid:  # a place of other numbers: its end is noticed all the same
                small.crash()
                await until(lambda: run.model("small")["state"] != "ready", "it is gone")
            assert (await run.ask("small")).status == 200
            await until(run.is_empty, "somebody is still there")

    play(scene)
    for path in tmp_path.glob("events-*.parquet"):
        read_event_log(path)


def test_what_was_learned_of_servers_that_start_alike_is_kept() -> None:
    async def scene() -> None:
        load = {"args": ["--load-s", "0.05"]}
        before = world("small", "other", small=load, other=load)
        after = world("other", "small", small=load, other={"args": ["--load-s", "0.06"]})
        async with running(before) as run:
            for model in ("small", "other"):
                assert (await run.ask(model)).status == 200
            predicted, old = before.tables.level, run.gateway.core.tables.level
            assert (old["load_s"][0, :, 0] < predicted["load_s"][0, :, 0]).all(), "loads were quick"
            run.gateway.core.measured(0, 0, 0, 1.5 * predicted["footprint_bytes"][0, 0, 0])
            learned = {name: old[name][0, 0].copy() for name in ("load_s", "footprint_bytes")}
            await run.gateway.change_world(after)
            new = run.gateway.core.tables.level
            for name, values in learned.items():
                np.testing.assert_array_equal(new[name][0, 1], values, name)
            np.testing.assert_array_equal(new[0, 0], after.tables.level[0, 0], "it is started otherwise")
            run.gateway.core.check()

    play(scene)


def test_who_waits_for_a_model_that_goes_is_told() -> None:
    async def scene() -> None:
        async with running(world("small", "other", "big", small=RUNS)) as run:
            asked = [asyncio.create_task(run.ask("small")) for _ in range(3)]
            await until(lambda: len(run.tasks("small")) == 2, "two run")
            await run.gateway.change_world(world("other"))
            got = [await task for task in asked]
            assert [one.status for one in got] == [200, 200, 404], "what ran was let run"
            assert got[2].code == "model_not_found"
            assert (await run.ask("small")).status == 404
            assert (await run.ask("other")).status == 200
            assert sum(server.pid > 0 for server in run.made) == 1, "no other server is left"
            await until(run.is_empty, "somebody is still there")

    play(scene)


def test_a_change_that_is_given_up_leaves_all_as_it_was() -> None:
    async def scene() -> None:
        async with running(world("small", "other", "big", small=RUNS)) as run:
            asked = asyncio.create_task(run.ask("small"))
            await until(lambda: bool(run.tasks("small")), "it runs")
            change = asyncio.create_task(run.gateway.change_world(world("other")))
            await until(lambda: run.gateway.core.paused, "it waits for what runs")
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)
            assert not run.gateway.core.paused
            assert (await asked).status == 200
            for model in ("big", "other", "small"):
                assert (await run.ask(model)).status == 200
            await until(run.is_empty, "somebody is still there")

    play(scene)


def test_many_changes_at_once_are_made_one_after_another() -> None:
    async def scene() -> None:
        worlds = [
            world("small", "other", small=RUNS),
            world("other", "small", small=RUNS, other={"args": ["--tokens", "3"]}),
        ]
        async with running(worlds[0]) as run:
            asked = [asyncio.create_task(run.ask(m)) for _ in range(10) for m in ("small", "other")]
            await asyncio.gather(*(run.gateway.change_world(worlds[k % 2]) for k in range(9)))
            assert {(await task).status for task in asked} == {200}
            assert run.gateway.core.totals.served == 20
            await until(run.is_empty, "somebody is still there")
            assert not run.gateway.core.paused

    play(scene)


def test_a_server_that_cannot_be_made_is_a_load_that_failed() -> None:
    async def scene() -> None:
        async with running() as run:
            make = run.gateway.fleet.make

            def refuse(engine: str, launch: Launch) -> Server:
                if launch.model == "small":
                    raise InputError("device", "be there", launch.device)
                return make(engine, launch)

            run.gateway.fleet.make = refuse
            got = await run.ask("small")
            assert (got.status, got.code) == (503, "model_failed")
            assert "device must be there" in got.body["error"]["message"]
            assert (await run.ask("other")).status == 200

    play(scene)


def test_a_server_that_cannot_be_stopped_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with running(policy="fifo-swap") as run:
            await run.ask("small")
            stop = run.made[0].stop

            async def fail() -> None:
                await stop()
                raise ServerFailed("it is stuck")

            monkeypatch.setattr(run.made[0], "stop", fail)
            assert (await run.ask("big")).status == 200

    play(scene)
