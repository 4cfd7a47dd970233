from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shunter
from shunter.agents.learned.policy import LearnedPolicy
from shunter.serve import serving

SHIPPED = Path(shunter.__file__).parent / "data" / "policies" / "generalist.safetensors"


def champion(factor: float = 1.0) -> LearnedPolicy:
    """What a registry gives for an alias: its name is the same whatever version that is."""
    policy = LearnedPolicy.load(SHIPPED)
    policy.name = "box:champion"
    policy.weights = {**policy.weights, "linear": factor * policy.weights["linear"]}
    return policy


def test_another_champion_decides_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Any] = [champion(), OSError("away"), champion(2.0), champion(2.0)]
    lookups, looked = iter(registered), list[str]()

    def make_policy(uri: str) -> LearnedPolicy:
        looked.append(uri)
        found = next(lookups, registered[-1])
        if isinstance(found, Exception):
            raise found
        return found

    changed: list[LearnedPolicy] = []
    gateway: Any = SimpleNamespace(core=SimpleNamespace(policy=champion()), change_policy=changed.append)
    said: list[str] = []
    monkeypatch.setattr(serving, "make_policy", make_policy)
    monkeypatch.setattr(serving, "_CHAMPION_S", 0.001)

    async def follow() -> None:
        task = asyncio.create_task(serving._follow_champion("models:/box@champion", gateway, said.append))
        async with asyncio.timeout(20):
            while len(looked) < 6:
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(follow())
    assert changed == [registered[2]]
    assert said == [
        "models:/box@champion could not be looked up: away",
        "another box:champion decides from now on",
    ]
