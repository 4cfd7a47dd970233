#!/usr/bin/env bash
# The real thing on an NVIDIA machine without internet: gpu_layers sweeps of an 8B Q4_0, preempt-resume of 3B, 8B
# and 14B FP16 random-weight checkpoints (arXiv 2605.19593's experiment) against predictions made beforehand, fits,
# offload curves, and policies on the real engine.
#
# usage: scripts/gpu_validation.sh [OUT_DIR]     by default results/gpu/GPU_NAME
#   WHEELS=DIR         wheels of shunter's dependencies, and llama-cpp-python's source, to install from
#   CUDA_ARCH=90       for building llama-cpp-python
#   DEVICE=cuda:0-70GB device of both engines
#   WORK=DIR           where the checkpoints (50 GB) go; by default OUT_DIR/work, which git ignores
#   LLAMA_DEVICE, HF_DEVICE, SIZES="3GB 8GB": to try it where there is no GPU, in a few minutes:
#       LLAMA_DEVICE=loopback:1-threads-400MB HF_DEVICE=cpu:1-threads-600MB SIZES="60MB 120MB 240MB" HF_TYPE=F32 \
#       LEVELS=0,50%,all REPEATS=1 MAX_REPEATS=1 JOB_TOKENS=40 CUT_POINTS=3 REAL_SEEDS=1 REQUESTS=10 \
#       scripts/gpu_validation.sh OUT
# OUT_DIR gets machine.txt, datasets, fits, reports and figures, ready to be committed. Steps that are done already
# are skipped and cut-off ones go on, so it can be called again until it ends with "done".
set -euo pipefail
cd "$(dirname "$0")/.."
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr ' A-Z' '-a-z' || true)
out=${1:-results/gpu/${gpu:?give OUT_DIR: nvidia-smi names no GPU}}
out=$(mkdir -p "$out" && cd "$out" && pwd)
work=${WORK:-$out/work}
mkdir -p "$work"
echo '*' >"$work/.gitignore"
echo mlartifacts >"$out/.gitignore"
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda:0-70GB}
LLAMA_DEVICE=${LLAMA_DEVICE:-$DEVICE}
HF_DEVICE=${HF_DEVICE:-$DEVICE}
HF_TYPE=${HF_TYPE:-F16}
CUDA_ARCH=${CUDA_ARCH:-90}
LEVELS=${LEVELS:-0,10%,20%,30%,40%,50%,60%,70%,80%,90%,96%,all}
REPEATS=${REPEATS:-3}
MAX_REPEATS=${MAX_REPEATS:-6}
JOB_TOKENS=${JOB_TOKENS:-200}
CUT_POINTS=${CUT_POINTS:-9}
read -r -a sizes <<<"${SIZES:-}"
shunter() { "$PYTHON" -m shunter.cli.main "$@"; }
step() { echo "== $(date -u +%T) $*"; }

if [ -n "${WHEELS:-}" ]; then
  step "installing from $WHEELS"
  "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" gguf gymnasium mlflow numba nvidia-ml-py pandas \
    plotly psutil pyarrow pydantic pyyaml rich safetensors scikit-learn scipy stable-baselines3 sb3-contrib typer
  "$PYTHON" -c 'import llama_cpp' 2>/dev/null ||
    CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$CUDA_ARCH -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" \
      "$PYTHON" -m pip install --quiet --no-index --no-build-isolation --find-links "$WHEELS" llama-cpp-python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" COLUMNS=${COLUMNS:-160}

{
  date -u +%FT%TZ
  git rev-parse HEAD 2>/dev/null || true
  nvidia-smi 2>/dev/null || echo "no nvidia-smi: $(uname -m), $(nproc) cores"
  "$PYTHON" - <<'PY'
import importlib.metadata as metadata, platform
print("python", platform.python_version())
for name in "torch transformers accelerate llama-cpp-python numpy pandas scikit-learn numba nvidia-ml-py".split():
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "missing")
PY
} | tee "$out/machine.txt"
shunter doctor >"$out/doctor.txt" || true

checkpoint() { # NAME LIKE TYPE INDEX
  [ -e "$work/$1" ] && return
  local scaled=()
  [ ${#sizes[@]} -gt "$4" ] && scaled=(--size "${sizes[$4]}")
  shunter checkpoint "$work/$1" --like "$2" --quantization "$3" "${scaled[@]}"
}
step checkpoints
checkpoint 8b-q4.gguf Llama-3-8B Q4_0 1
checkpoint qwen2.5-3b Qwen2.5-3B "$HF_TYPE" 0
checkpoint qwen3-8b Qwen3-8B "$HF_TYPE" 1
checkpoint qwen2.5-14b Qwen2.5-14B "$HF_TYPE" 2
llama=(--engine llama-cpp --device "$LLAMA_DEVICE" --model "$work/8b-q4.gguf")
hf=(--engine transformers --device "$HF_DEVICE")
for name in qwen2.5-3b qwen3-8b qwen2.5-14b; do hf+=(--model "$work/$name"); done

step "profile: llama-cpp over gpu_layers"
shunter profile "${llama[@]}" --out "$out/llama-cpp.parquet" --gpu-layers "$LEVELS" --prompt 64,256 --decode 32 \
  --batch 1,4 --repeats "$REPEATS" --max-repeats "$MAX_REPEATS" --cuts 64,256 --resume
step "profile: transformers"
shunter profile "${hf[@]}" --out "$out/transformers.parquet" --prompt 64,256 --decode 32 --batch 1,2,4 \
  --repeats "$REPEATS" --max-repeats "$MAX_REPEATS" --cuts 100,400,800 --context 1024 --resume
shunter profile offload "$out/llama-cpp.parquet" --out "$out/offload" | tee "$out/offload.txt"

for engine in llama-cpp transformers; do
  [ -s "$out/fit-$engine.txt" ] && continue
  step "fit: $engine"
  shunter fit "$out/$engine.parquet" --out "$out/perf-$engine" --verbose >"$out/fit-$engine.part"
  mv "$out/fit-$engine.part" "$out/fit-$engine.txt"
done

# Its predictions are written to predictions.json before the first cycle and stay as they are.
step "profile preemption: llama-cpp"
shunter profile preemption "${llama[@]}" --performance "$out/perf-llama-cpp" --out "$out/preemption-llama-cpp" \
  --job-tokens "$JOB_TOKENS" --cuts "$CUT_POINTS" --repeats "$REPEATS" --resume | tee "$out/preemption-llama-cpp.txt"
step "profile preemption: transformers"
shunter profile preemption "${hf[@]}" --performance "$out/perf-transformers" --out "$out/preemption-transformers" \
  --job-tokens "$JOB_TOKENS" --cuts "$CUT_POINTS" --repeats "$REPEATS" --resume | tee "$out/preemption-transformers.txt"

cat >"$work/scenario.yaml" <<YAML
name: gpu-validation
engine: transformers
devices: [{name: gpu, device: "$HF_DEVICE"}]
models:
  - {name: qwen2.5-3b, checkpoint: qwen2.5-3b}
  - {name: qwen3-8b, checkpoint: qwen3-8b}
  - {name: qwen2.5-14b, checkpoint: qwen2.5-14b}
workload: {requests: ${REQUESTS:-60}, load: 0.7, prompt_scale: 0.1, decode_scale: 0.1}
limits: {max_batch: 4, context_tokens: 1024}
YAML
cp "$work/scenario.yaml" "$out/scenario.yaml"
if [ ! -e "$out/eval-real.json" ]; then
  step "eval --real"
  (cd "$work" && shunter eval --scenario scenario.yaml --performance "$out/perf-transformers" --real \
    --seeds "${REAL_SEEDS:-2}" --out "$out/eval-real" --json eval-real.json --verbose) | tee "$out/eval-real.txt"
  mv "$work/eval-real.json" "$out/eval-real.json"
fi
step "done: $out"
