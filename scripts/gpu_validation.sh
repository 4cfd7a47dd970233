#!/usr/bin/env bash
# The real thing on an NVIDIA machine without internet: gpu_layers sweeps of an 8B Q4_0, preempt-resume of 3B, 8B
# and 14B FP16 random-weight checkpoints (arXiv 2605.19593's experiment), fits, and policies on the real engine.
#
# usage: scripts/gpu_validation.sh OUT_DIR
#   WHEELS=DIR         wheels of shunter's dependencies, and llama-cpp-python's source, to install from
#   CUDA_ARCH=90       for building llama-cpp-python
#   DEVICE=cuda:0-70GB device of both engines
#   LLAMA_DEVICE, HF_DEVICE, SIZES="3GB 8GB": to try it where there is no GPU, for example
#       LLAMA_DEVICE=loopback:1-threads-400MB HF_DEVICE=cpu:1-threads-600MB SIZES="60MB 120MB 240MB" HF_TYPE=F32
# Steps that are done already are skipped, so a cut-off run goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "$1" && cd "$1" && pwd)
work=${WORK:-$out/work}
mkdir -p "$work"
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda:0-70GB}
LLAMA_DEVICE=${LLAMA_DEVICE:-$DEVICE}
HF_DEVICE=${HF_DEVICE:-$DEVICE}
HF_TYPE=${HF_TYPE:-F16}
CUDA_ARCH=${CUDA_ARCH:-90}
read -r -a sizes <<<"${SIZES:-}"
shunter() { "$PYTHON" -m shunter.cli.main "$@"; }

if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" gguf gymnasium mlflow numba pandas plotly \
    psutil pyarrow pydantic pyyaml rich safetensors scikit-learn scipy stable-baselines3 sb3-contrib typer
  "$PYTHON" -c 'import llama_cpp' 2>/dev/null ||
    CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$CUDA_ARCH -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" \
      "$PYTHON" -m pip install --quiet --no-index --no-build-isolation --find-links "$WHEELS" llama-cpp-python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

{
  date -u +%FT%TZ
  git rev-parse HEAD 2>/dev/null || true
  nvidia-smi 2>/dev/null || echo "no nvidia-smi: $(uname -m), $(nproc) cores"
  "$PYTHON" -m pip freeze 2>/dev/null | grep -i -E '^(torch|transformers|accelerate|llama|numpy|scikit|numba)' || true
} | tee "$out/machine.txt"

checkpoint() { # NAME LIKE TYPE INDEX
  [ -e "$work/$1" ] && return
  local scaled=()
  [ ${#sizes[@]} -gt "$4" ] && scaled=(--size "${sizes[$4]}")
  shunter checkpoint "$work/$1" --like "$2" --quantization "$3" "${scaled[@]}"
}
checkpoint 8b-q4.gguf Llama-3-8B Q4_0 1
checkpoint qwen2.5-3b Qwen2.5-3B "$HF_TYPE" 0
checkpoint qwen3-8b Qwen3-8B "$HF_TYPE" 1
checkpoint qwen2.5-14b Qwen2.5-14B "$HF_TYPE" 2

shunter profile --engine llama-cpp --device "$LLAMA_DEVICE" --model "$work/8b-q4.gguf" --out "$out/llama-cpp.parquet" \
  --gpu-layers 0,10%,20%,30%,40%,50%,60%,70%,80%,90%,96%,all --prompt 64,256 --decode 32 --batch 1,4 --repeats 3 \
  --cuts 64,256 --resume
hf=(--model "$work/qwen2.5-3b" --model "$work/qwen3-8b" --model "$work/qwen2.5-14b")
shunter profile --engine transformers --device "$HF_DEVICE" "${hf[@]}" --out "$out/transformers.parquet" \
  --prompt 64,256 --decode 32 --batch 1,2,4 --repeats 3 --cuts 100,400,800 --context 1024 --resume
for engine in llama-cpp transformers; do
  shunter fit "$out/$engine.parquet" --out "$out/perf-$engine" | tee "$out/fit-$engine.txt"
done

cat >"$work/scenario.yaml" <<YAML
name: gpu-validation
engine: transformers
devices: [{name: gpu, device: "$HF_DEVICE"}]
models:
  - {name: qwen2.5-3b, checkpoint: qwen2.5-3b}
  - {name: qwen3-8b, checkpoint: qwen3-8b}
  - {name: qwen2.5-14b, checkpoint: qwen2.5-14b}
workload: {requests: 60, load: 0.7, prompt_scale: 0.1, decode_scale: 0.1}
limits: {max_batch: 4, context_tokens: 1024}
YAML
(cd "$out" && "$PYTHON" -m shunter.cli.main eval --scenario "$work/scenario.yaml" --performance "$out/perf-transformers" \
  --real --seeds "${REAL_SEEDS:-2}" --out "$out/eval-real" --json "$out/eval-real.json") | tee "$out/eval-real.txt"
