#!/usr/bin/env bash
# Installs llama-cpp-python with ggml's RPC backend, which the loopback device needs, into an interpreter:
# from a wheel in $CACHE if one was built there before, otherwise building it (minutes).
# usage: CACHE=DIR install_llama_cpp.sh PYTHON REQUIREMENT
set -euo pipefail
python=$1 requirement=$2
# -march=native is left on for speed, so a wheel only fits the kind of processor it was built on.
flags=$({ grep -m1 '^flags' /proc/cpuinfo 2>/dev/null || uname -m; } | sha256sum | cut -c1-12)
cache="${CACHE:?}/$("$python" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')-$flags"
mkdir -p "$cache"
name=${requirement%%==*} version=${requirement##*==}
wheel=$(find "$cache" -name "${name//-/_}-$version-*.whl" | head -n 1)
if [ -z "$wheel" ]; then
  echo "building $requirement with the RPC backend; this takes some minutes" >&2
  log=$(mktemp)
  if ! CMAKE_ARGS="-DGGML_RPC=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
    "$python" -m pip wheel --quiet --no-deps --no-binary "$name" "$requirement" -w "$cache" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    exit 1
  fi
  rm -f "$log"
  wheel=$(find "$cache" -name "${name//-/_}-$version-*.whl" | head -n 1)
fi
"$python" -m uv pip install --quiet --python "$python" "$wheel"
