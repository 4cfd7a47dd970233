"""``shunter serve``: a policy in front of real model servers."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import open_console, say, seconds
from shunter.envs.workload.gateway_record import TRACE_NAME
from shunter.errors import InputError, ShunterError
from shunter.files import cache_folder
from shunter.outputs import hold

try:
    from shunter.serve.gateway.gateway import GatewaySettings
    from shunter.serve.http.settings import HttpSettings, read_api_keys
    from shunter.serve.servers.llama_binary import find_binary
    from shunter.serve.servers.starting import ServerSettings
    from shunter.serve.serving import SHIPPED, Serving
    from shunter.serve.serving import serve as run_gateway
except ImportError as missing:
    raise ShunterError(f"serving needs the extra: pip install 'shunter[serve]' ({missing})") from None

_Scenario = Annotated[
    Path | None, typer.Option(help="Scenario file (YAML): models, devices, limits.", show_default=False)
]
_Performance = Annotated[
    Path | None,
    typer.Option(
        help="Fitted performance model. Default: published figures where all devices are GPUs of the "
        "catalogue, else assumed from sizes.",
        show_default=False,
    ),
]
_Policy = Annotated[
    str, typer.Option(help="Name, policy file, models:/NAME@champion, or the one that shunter ships.")
]
_Shadow = Annotated[
    str | None,
    typer.Option(
        help="Policy that is asked too: what it would choose stands beside each decision.", show_default=False
    ),
]
_Host = Annotated[str, typer.Option(help="Address to listen at.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: any that is free.")]
_Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        help="File of API keys, one a line, that nobody else can read, or env:NAME; repeatable.",
        show_default=False,
    ),
]
_Origins = Annotated[
    list[str] | None,
    typer.Option("--origin", help="Web origin whose pages may ask; repeatable.", show_default=False),
]
_Record = Annotated[
    Path | None,
    typer.Option(
        help="Folder for requests (times and lengths, no text) and decisions: replay and improve read it.",
        show_default=False,
    ),
]
_LogText = Annotated[
    bool,
    typer.Option("--log-text", help="Write the text of requests and answers into the record's folder too."),
]
_Queue = Annotated[int, typer.Option(min=1, help="Requests that may wait for one model; then 429.")]
_Timeout = Annotated[str, typer.Option(help="Longest wait for a server; then 504.")]
_HangAfter = Annotated[
    str,
    typer.Option(
        help="Longest silence of a server to a request, beside ten times what is predicted; then 504, and "
        "it is started again."
    ),
]
_Drain = Annotated[str, typer.Option(help="Longest wait for running requests when told to end.")]
_Binary = Annotated[
    str | None,
    typer.Option("--llama-server", help="Path of llama-server. Default: looked for.", show_default=False),
]
_Python = Annotated[
    str | None, typer.Option("--vllm-python", help="Interpreter that has vLLM.", show_default=False)
]
_Sleep = Annotated[
    int,
    typer.Option(
        min=0,
        max=2,
        help="vLLM servers sleep instead of ending: 1, weights stay in host memory; 2, they are dropped.",
    ),
]
_State = Annotated[
    Path | None,
    typer.Option(help="Folder for servers' logs. Default: in the user's cache.", show_default=False),
]
_Try = Annotated[
    bool, typer.Option("--try", help="Serve a small real model on this machine's CPU (a 98 MB download).")
]


def serve(
    scenario: _Scenario = None,
    performance: _Performance = None,
    policy: _Policy = SHIPPED,
    shadow: _Shadow = None,
    host: _Host = "127.0.0.1",
    port: _Port = 8080,
    api_key: _Keys = None,
    origin: _Origins = None,
    record: _Record = None,
    log_text: _LogText = False,
    max_queue: _Queue = 512,
    timeout: _Timeout = "30m",
    hang_after: _HangAfter = "5m",
    drain: _Drain = "60s",
    llama_server: _Binary = None,
    vllm_python: _Python = None,
    sleep: _Sleep = 0,
    state: _State = None,
    try_it: _Try = False,
) -> None:
    """Serve several models behind one OpenAI-compatible address, scheduled by a policy.

    Models are loaded, kept and unloaded on unmodified llama-server and vllm serve processes as the policy
    decides; requests wait here until their model is ready. GET / shows what happens, /metrics counts it.
    SIGTERM lets running requests end; SIGHUP reads the scenario again. No text of prompts or answers is
    written anywhere but with --log-text.

    Examples:

    shunter serve --try

    shunter serve --scenario box.yaml

    shunter serve --scenario box.yaml --performance perf --policy policy.safetensors --record record

    shunter serve --scenario box.yaml --host 0.0.0.0 --api-key keys.txt --policy models:/box@champion
    """
    if (scenario is None) != try_it:
        raise InputError("--scenario", "be given, or --try instead", scenario and str(scenario))
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise InputError("--api-key", f"be given to listen at {host}: others could use your models", None)
    _check_record(record, log_text=log_text)
    state_dir = state or cache_folder("serve")
    keys = tuple(key for source in api_key or () for key in read_api_keys(source))
    gateway = GatewaySettings(
        max_queue=max_queue,
        timeout_s=seconds("--timeout", timeout),
        hang_after_s=seconds("--hang-after", hang_after),
        sleep_level=sleep,
    )
    what = Serving(
        scenario=scenario or _trial(state_dir, llama_server),
        servers=ServerSettings(state_dir=state_dir, llama_server=llama_server, vllm_python=vllm_python),
        performance=performance,
        policy=policy,
        shadow=shadow,
        http=HttpSettings(host=host, port=port, api_keys=keys, origins=tuple(origin or ())),
        gateway=gateway,
        record=record,
        log_text=log_text,
        drain_s=seconds("--drain", drain),
    )
    console = open_console()
    asyncio.run(run_gateway(what, lambda line: say(console, line)))


def _check_record(record: Path | None, *, log_text: bool) -> None:
    if log_text and record is None:
        raise InputError("--record", "be given with --log-text: texts are written there", None)
    if record is not None and (record.suffix == ".parquet" or record.is_file()):
        rule = "be a folder (shunter workload convert FOLDER trace.parquet makes one trace of it)"
        raise InputError("--record", rule, str(record))
    hold("--record", None if record is None else record / TRACE_NAME)  # pages may be written beside it


def _trial(folder: Path, llama_server: str | None) -> Path:
    """A scenario of a small real model, fetched if need be."""
    from shunter.serve.try_model import fetch_try_model, trial_scenario

    find_binary(llama_server)  # nothing is fetched in vain
    return trial_scenario(fetch_try_model(say=partial(say, open_console())), folder)
