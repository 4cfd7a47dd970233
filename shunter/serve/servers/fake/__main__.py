"""The fake server: what llama-server says over HTTP, without a model.

Usage: ``python -m shunter.serve.servers.fake --port P --alias NAME [--load-s S] [--prefill-tokens-per-s N]
[--step-s S] [--slots N] [--memory-bytes N]
[--fail load|oom|crash-after:N|stall-after:N|hang|hang-load|slow-stop]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from aiohttp import web

from shunter.serve.servers.fake.app import make_app
from shunter.serve.servers.fake.engine import CRASHED, FAILED_LOADS, FakeEngine, FakeOptions, add_options


def main(argv: list[str]) -> int:
    """Serves until it is asked to end."""
    parser = argparse.ArgumentParser("python -m shunter.serve.servers.fake")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", required=True)
    add_options(parser)
    given = vars(parser.parse_args(argv))
    host, port, alias = given.pop("host"), given.pop("port"), given.pop("alias")
    return asyncio.run(_serve(host, port, alias, FakeOptions(**given)))


async def _serve(host: str, port: int, alias: str, options: FakeOptions) -> int:
    stop = asyncio.Event()
    ignored = options.fail == "slow-stop"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set if not ignored else bool)
    engine = FakeEngine(options, _crash)
    runner = web.AppRunner(
        make_app(engine, alias), handler_cancellation=True, shutdown_timeout=0.1, access_log=None
    )
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print(f"fake: loading {alias}", flush=True)
    if options.fail in FAILED_LOADS:
        await asyncio.sleep(options.load_s)
        print(FAILED_LOADS[options.fail], file=sys.stderr, flush=True)
        return 1
    taken = b"\1" * options.memory_bytes
    running = asyncio.create_task(engine.run())
    await stop.wait()
    running.cancel()
    await runner.cleanup()
    del taken
    return 0


def _crash() -> None:
    print(CRASHED, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
