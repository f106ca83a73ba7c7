#!/usr/bin/env bash
# The checks that need a GPU, in order of worth, in 12 minutes at most.
#   benchmarks/gpu.sh OUT             on a card
#   DRY=1 benchmarks/gpu.sh OUT       the same commands on a CPU, test size
# Each part has a budget of its own; what a part prints is OUT/PART.txt, and a
# part that fails or is cut off does not stop the others. PYTHON is the
# interpreter of an environment with jax[cuda], and for the peers
# benchmarks/requirements-peers.txt with a CUDA build of torch.
set -u
out=${1:?usage: benchmarks/gpu.sh OUT}
python=${PYTHON:-python}
mkdir -p "$out"
if [ -n "${DRY:-}" ]; then
  export JAX_PLATFORMS=cpu
  device=cpu model=tiny
  shape="--prefix=12 --branch=6 --rank=4 --head-chunk=64 --no-check"
  batches=1 tokens=4
else
  # JAX and torch share the card
  export XLA_PYTHON_CLIENT_PREALLOCATE=false
  export XLA_FLAGS="--xla_gpu_enable_triton_gemm=false ${XLA_FLAGS:-}"
  device=gpu model=llava-1.5-7b shape="" batches=16 tokens=128
fi

part() {  # part NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  echo "$name: at most $seconds s"
  timeout --signal=INT "$seconds" "$python" -m "$@" >"$out/$name.txt" 2>&1
  local code=$?
  [ $code = 0 ] && echo "$name: done" || echo "$name: exit code $code"
  tail -n 30 "$out/$name.txt"
}

part stage2 300 benchmarks.step --preset=$model --device=$device $shape \
  --batches=$batches --repeats=3 --budget=260 --only='stage 2.*online' \
  --json="$out/stage2.json"
part decode 150 benchmarks.decode --preset=$model --new-tokens=$tokens --repeats=3
part peers 270 benchmarks.peers --preset=$model --device=$device --repeats=3 \
  --pairs=1 --json="$out/peers.json"
