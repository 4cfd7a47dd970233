"""A model that is none: requests in rounds as servers batch them, whose times come from a few numbers."""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

FAILURES = ("load", "oom", "hang", "hang-load", "slow-stop")
COUNTED_FAILURES = ("crash-after", "stall-after")
"""What ``--fail`` takes, the latter with ``:N`` behind."""

FAILED_LOADS = {
    "load": "error loading model: the fake was told to fail",
    "oom": "allocating 1024.00 MiB on device 0: cudaMalloc failed: out of memory",
}
"""What a fake writes whose load fails."""

CRASHED = "fake: error: crashed as it was told to"


@dataclass(frozen=True)
class FakeOptions:
    """How a fake server behaves.

    Attributes:
        load_s: Seconds until it takes requests.
        prefill_tokens_per_s: Speed at which prompts are read.
        step_s: Seconds that a round of one request takes, which gives it one token.
        step_growth: What each further request of a round adds, as a share of ``step_s``.
        slots: Requests of a round, at most; more wait.
        tokens: Tokens of an answer, unless its request wants fewer.
        context_tokens: Prompts beyond are refused; 0: none are.
        memory_bytes: Memory that it takes once loaded.
        fail: ``load`` and ``oom`` end it while it loads; ``hang-load`` never ends loading; ``hang`` answers
            no request; ``slow-stop`` does not end when asked; ``crash-after:N`` ends it after so many tokens;
            ``stall-after:N`` gives so many and no more. Whoever hangs or stalls says that it is well.
    """

    load_s: float = 0.0
    prefill_tokens_per_s: float = 100_000.0
    step_s: float = 0.001
    step_growth: float = 0.1
    slots: int = 4
    tokens: int = 16
    context_tokens: int = 0
    memory_bytes: int = 0
    fail: str = ""

    @property
    def crash_after(self) -> int | None:
        """Tokens after which it crashes; None: never."""
        return self._tokens_until("crash-after")

    @property
    def stall_after(self) -> int | None:
        """Tokens after which it gives no more; None: it always does."""
        return 0 if self.fail == "hang" else self._tokens_until("stall-after")

    def _tokens_until(self, failure: str) -> int | None:
        kind, _, count = self.fail.partition(":")
        return int(count) if kind == failure else None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field of ``FakeOptions``."""
    for name, default in vars(FakeOptions()).items():
        kind = _failure if name == "fail" else type(default)
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default)


def read_options(args: Sequence[str]) -> FakeOptions:
    """Options from a command line's arguments."""
    parser = argparse.ArgumentParser("fake", add_help=False)
    add_options(parser)
    return FakeOptions(**vars(parser.parse_args(args)))


def _failure(text: str) -> str:
    kind, _, count = text.partition(":")
    if text not in ("", *FAILURES) and not (kind in COUNTED_FAILURES and count.isdecimal()):
        counted = " or ".join(f"{name}:N" for name in COUNTED_FAILURES)
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(FAILURES)}, {counted}")
    return text


@dataclass
class FakeTask:
    """A request in the fake.

    Attributes:
        id: Counts requests from 0.
        prompt_tokens: Words that were read.
        limit: Tokens that it will get.
        produced: Those that it has got.
        ended: ``done``, or ``disconnected`` where its client went away; empty while it is there.
    """

    id: int
    prompt_tokens: int
    limit: int
    produced: int = 0
    ended: str = ""
    arrived: asyncio.Event = field(default_factory=asyncio.Event, repr=False)


class FakeEngine:
    """Continuous batching without a model; what it measures of time is its loop's clock.

    Args:
        options: How it behaves.
        crash: Called once as many tokens were given as ``crash-after`` says.

    Attributes:
        tasks: All requests that ever came, the last ones last.
        running: Those of the present round, by slot.
        loaded: Set once requests are taken.
    """

    def __init__(self, options: FakeOptions, crash: Callable[[], None]) -> None:
        self.options = options
        self.tasks: deque[FakeTask] = deque(maxlen=100_000)
        self.running: list[FakeTask | None] = [None] * options.slots
        self.loaded = asyncio.Event()
        self.given_tokens = 0
        self._crash, self._seen = crash, 0
        self._waiting: deque[FakeTask] = deque()
        self._work = asyncio.Event()

    @property
    def deferred(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    async def tokens(self, prompt_tokens: int, limit: int) -> AsyncGenerator[int, None]:
        """Gives a request's tokens as they come: their index, from 0. Closing it early frees the slot."""
        task = FakeTask(self._seen, prompt_tokens, limit)
        self._seen += 1
        self.tasks.append(task)
        self._waiting.append(task)
        self._work.set()
        given = 0
        try:
            while given < limit:
                await task.arrived.wait()
                task.arrived.clear()
                for index in range(given, task.produced):
                    given += 1
                    yield index
            task.ended = "done"
        finally:
            task.ended = task.ended or "disconnected"
            self._leave(task)

    def _leave(self, task: FakeTask) -> None:
        if task in self._waiting:
            self._waiting.remove(task)
        self.running = [None if there is task else there for there in self.running]

    async def run(self) -> None:
        """Loads, then works in rounds until it is cancelled."""
        await asyncio.sleep(self.options.load_s)
        if self.options.fail == "hang-load":
            await asyncio.get_running_loop().create_future()
        self.loaded.set()
        while self.given_tokens != self.options.stall_after:
            if not any(self.running) and not self._waiting:
                self._work.clear()
                await self._work.wait()
            prompt_tokens = sum(task.prompt_tokens for task in self._admit())
            batch = sum(task is not None for task in self.running)
            step_s = self.options.step_s * (1 + self.options.step_growth * max(0, batch - 1))
            await asyncio.sleep(prompt_tokens / self.options.prefill_tokens_per_s + step_s)
            self._finish_round()

    def _admit(self) -> list[FakeTask]:
        admitted = []
        for slot, task in enumerate(self.running):
            if task is None and self._waiting:
                self.running[slot] = self._waiting.popleft()
                admitted.append(self.running[slot])
        return [task for task in admitted if task is not None]

    def _finish_round(self) -> None:
        for slot, task in enumerate(self.running):
            if task is None:
                continue
            task.produced += 1
            self.given_tokens += 1
            task.arrived.set()
            if task.produced >= task.limit:
                self.running[slot] = None
            if self.given_tokens == self.options.crash_after:
                self._crash()
            if self.given_tokens == self.options.stall_after:
                return
