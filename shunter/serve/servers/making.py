"""Which server answers for a model, by the scenario's engine name."""

from __future__ import annotations

from shunter.errors import InputError, UnknownNameError
from shunter.serve.boundary import Launch, Server
from shunter.serve.servers.fake.server import FakeProcess
from shunter.serve.servers.llama_server import LlamaServer
from shunter.serve.servers.starting import ProcessServer, ServerSettings
from shunter.serve.servers.vllm_server import VllmServer

__all__ = ["make_server"]

SERVERS: dict[str, type[ProcessServer]] = {
    "llama-cpp": LlamaServer,
    "vllm": VllmServer,
    "fake": FakeProcess,
}
"""Kinds of server by the name of their engine."""

_WITHOUT = ("transformers",)


def make_server(engine: str, launch: Launch, settings: ServerSettings) -> Server:
    """Makes a server; ``start`` starts it.

    Args:
        engine: Name of the engine, as scenarios have it.
        launch: What it is started with.
        settings: How servers are started and ended.

    Raises:
        InputError: The engine has no server, or what it needs is not there.
        UnknownNameError: There is no such engine.
    """
    if engine in _WITHOUT:
        raise InputError(
            "engine", f"be one that has a server ({', '.join(SERVERS)}): this one has no server", engine
        )
    if engine not in SERVERS:
        raise UnknownNameError("engine", engine, SERVERS)
    return SERVERS[engine](launch, settings)
