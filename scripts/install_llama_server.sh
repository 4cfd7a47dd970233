#!/usr/bin/env bash
# Builds llama-server and llama-bench, with ggml's RPC backend, from the llama.cpp that llama-cpp-python's source
# package vendors, so that a server computes as the engine does that was profiled. Takes some minutes, and
# nothing if they are in CACHE; CUDA's backend is built in where there are both nvcc and a GPU.
# usage: [PYTHON=python3] [LLAMA_CPP=llama-cpp-python==VERSION] install_llama_server.sh CACHE
set -euo pipefail
cache=$1 python=${PYTHON:-python3} requirement=${LLAMA_CPP:-llama-cpp-python==0.3.36}
# -march=native is left on for speed; shunter/serve/servers/llama_binary.py looks for the same name.
flags=$({ grep -m1 '^flags' /proc/cpuinfo 2>/dev/null || uname -m; } | sha256sum | cut -c1-12)
# Virtual machines may show AMX and yet stop a process that uses it.
without=$(grep -qm1 amx_tile /proc/cpuinfo 2>/dev/null && echo "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" || true)
cuda=$(command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo ON || echo OFF)
[ "$cuda" = ON ] && kind=cuda || kind=cpu
built="$cache/${requirement##*==}-$kind-$flags"
if [ -x "$built/bin/llama-server" ] && [ -x "$built/bin/llama-bench" ]; then
  exit
fi
echo "building llama-server of $requirement; this takes some minutes" >&2
mkdir -p "$cache"
exec 3>&2
work=$(mktemp -d "$cache/.building.XXXXXX")
finish() {
  status=$?
  [ "$status" -eq 0 ] || tail -n 40 "$work/log" >&3
  rm -rf "$work"
}
trap finish EXIT
{
  "$python" -m venv "$work/tools" # an interpreter of the system may lack pip
  if ! command -v cmake || ! command -v ninja; then
    "$work/tools/bin/python" -m pip install --quiet cmake ninja
    PATH="$work/tools/bin:$PATH"
  fi
  "$work/tools/bin/python" -m pip download --quiet --no-deps --no-binary "${requirement%%==*}" "$requirement" -d "$work"
  tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
  cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DGGML_RPC=ON -DGGML_CUDA="$cuda" -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DCMAKE_C_FLAGS="$without" -DCMAKE_CXX_FLAGS="$without" -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DBUILD_SHARED_LIBS=OFF
  cmake --build "$work/build" --target llama-server llama-bench -j "$(nproc)"
} >"$work/log" 2>&1
mkdir -p "$work/done/bin"
mv "$work/build/bin/llama-server" "$work/build/bin/llama-bench" "$work/done/bin"
rm -rf "$built"
mv "$work/done" "$built"
