"""The shell script that carries out a plan of vLLM's sleep mode."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any


def sleep_script(plan: dict[str, Any]) -> str:
    """A bash script; servers start one after the other, each put to sleep before the next needs the device.

    Args:
        plan: The plan as plain data; see ``shunter.export.sleep_plan``.
    """
    devices, models = list(plan["room_mb"]), plan["models"]
    start, cases = [], []
    for i, model in enumerate(models):
        start += [f"  launch {i} env {model['serve']}", *(f"  {line}" for line in model["sleep"])]
        cases += [f"sleep:{i})", *(f"  {line}" for line in model["sleep"]), "  ;;"]
        cases += [f"wake:{i})", f"  room {i}", *(f"  {line}" for line in model["wake"]), "  ;;"]
    return SCRIPT.format(
        names=_array(model["name"] for model in models),
        ports=_array(model["port"] for model in models),
        sizes=_array(model["device_mb"] for model in models),
        places=_array(devices.index(model["device"]) for model in models),
        devices=_array(devices),
        rooms=_array(plan["room_mb"].values()),
        start="\n".join(start),
        cases="\n".join(cases),
    )


def _array(values: Iterable[Any]) -> str:
    return " ".join(shlex.quote(str(value)) for value in values)


SCRIPT = """\
#!/usr/bin/env bash
# Carries out a plan of vLLM's sleep mode, written by `shunter export vllm`. Logs lie beside this script.
# usage: SCRIPT start          start all servers, one after the other; all are asleep then
#        SCRIPT wake MODEL     before its requests; refused while those awake on its device leave no room
#        SCRIPT sleep MODEL    after its requests: those under way come to their end first
#        SCRIPT stop           end all servers that it started
set -euo pipefail
cd -- "$(dirname -- "$0")"

names=({names})
ports=({ports})
sizes_mb=({sizes})
places=({places}) # which of the devices
devices=({devices})
rooms_mb=({rooms})

launch() {{
  local i=$1 port=${{ports[$1]}}
  shift
  if curl -fsS "http://127.0.0.1:$port/health" >/dev/null 2>&1; then
    echo "port $port is taken: something answers there already" >&2
    exit 1
  fi
  setsid "$@" >"vllm-$port.log" 2>&1 &
  echo $! >"vllm-$port.pid"
  until curl -fsS "http://127.0.0.1:$port/health" >/dev/null 2>&1; do
    kill -0 $! 2>/dev/null || {{ echo "${{names[i]}} did not start; see vllm-$port.log" >&2; exit 1; }}
    sleep 0.2
  done
}}

room() {{
  exec 9<"$(basename -- "$0")"
  flock 9 # one looks and wakes at a time
  local i free_mb=${{rooms_mb[${{places[$1]}}]}} beside=
  for i in "${{!names[@]}}"; do
    if [[ $i != "$1" && ${{places[i]}} == "${{places[$1]}}" ]] &&
      [[ $(curl -fsS "http://127.0.0.1:${{ports[i]}}/is_sleeping" 2>/dev/null) == *false* ]]; then
      free_mb=$((free_mb - sizes_mb[i]))
      beside+=" ${{names[i]}}"
    fi
  done
  if ((sizes_mb[$1] > free_mb)); then
    echo "${{names[$1]}} takes ${{sizes_mb[$1]}} MB, but $free_mb MB of ${{devices[${{places[$1]}}]}}" \\
      "are free: put to sleep first some of$beside" >&2
    exit 3
  fi
}}

stop() {{
  local port pid
  for port in "${{ports[@]}}"; do
    [[ -f vllm-$port.pid ]] || continue
    pid=$(<"vllm-$port.pid")
    # A process of that number may be another by now.
    if [[ " $(tr '\\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)" == *" --port $port "* ]]; then
      kill -TERM -- "-$pid"
      for _ in {{1..300}}; do
        kill -0 -- "-$pid" 2>/dev/null || break
        sleep 0.1
      done
      kill -KILL -- "-$pid" 2>/dev/null || true
    fi
    rm -f "vllm-$port.pid"
  done
}}

number=
for i in "${{!names[@]}}"; do
  if [[ $# == 2 && ${{names[i]}} == "$2" ]]; then number=$i; fi
done

case "${{1:-}}:$number" in
start:)
{start}
  ;;
stop:)
  stop
  ;;
{cases}
*)
  echo "usage: $0 start | wake MODEL | sleep MODEL | stop" >&2
  exit 2
  ;;
esac
"""
