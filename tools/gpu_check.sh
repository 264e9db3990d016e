#!/usr/bin/env bash
# All GPU tests and GPU benchmarks in under nine minutes, and a short table of them last.
#
#   tools/gpu_check.sh [--images FOLDER] [--out FOLDER] [STEP...]
#
# --images: photographs, for the steps that load them. --out: where rows.jsonl, log.txt, summary.txt and utilization.txt
# go; default runs/gpu_check. Steps, all by default: tests kernels loader train stage2. PYTHON names the interpreter; fastlt
# need not be installed in it, nor is a network wanted. Exit code 1 if a step failed or ran out of time.
#
# What takes longer is a command of its own, which may be stopped and goes on, as the full grid of CIFAR-100-LT:
#   python -m fastlt.grid grid=cifar100_lt data=DIR at_once=4 out=runs/c100
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
images="" out=$root/runs/gpu_check steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --images) images=$(realpath -m "${2:?--images wants a folder}") && shift 2 ;;
    --out) out=$(realpath -m "${2:?--out wants a folder}") && shift 2 ;;
    tests | kernels | loader | train | stage2) steps+=("$1") && shift ;;
    *) echo "error: $1 is unknown: allowed are --images FOLDER, --out FOLDER, tests, kernels, loader, train, stage2" >&2 && exit 2 ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=(tests kernels loader train stage2)
if [ -n "$images" ] && [ ! -d "$images" ]; then echo "error: --images $images: no such folder" >&2 && exit 2; fi
cd "$root"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "error: $python sees no CUDA device: this check is for a machine with a GPU" >&2 && exit 2; }

mkdir -p "$out"
rm -f "$out"/rows.jsonl "$out"/summary.txt && : > "$out/log.txt"
readonly ALL=525 # seconds for everything
threads=$(nproc)
code=0

# step NAME SECONDS COMMAND...: runs it within its time and what is left of all, its output in the log.
step() {
  local name=$1 limit=$2 begin=$SECONDS left=$((ALL - SECONDS)) verdict
  shift 2
  [ "$left" -lt "$limit" ] && limit=$left
  [ "$limit" -lt 5 ] && echo "$name: no time left" | tee -a "$out/summary.txt" && code=1 && return
  printf '\n== %s\n' "$name" | tee -a "$out/log.txt"
  timeout --kill-after=10 "$limit" "$@" >> "$out/log.txt" 2>&1
  case $? in
    0) verdict=ok ;;
    124 | 137) verdict="OUT OF TIME after $limit s" code=1 ;;
    *) verdict=FAILED code=1 ;;
  esac
  grep -v '^{' "$out/log.txt" | tail -n 3 | cut -c1-200
  echo "$name: $verdict, $((SECONDS - begin)) s" | tee -a "$out/summary.txt"
}

bench() { # NAME SECONDS ARGUMENTS...
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$python" -m fastlt.bench "$@" device=cuda rows="$out/rows.jsonl"
}

# Other versions of the libraries may warn of what this project's own do not.
check() { "$python" -m pytest -q -p no:cacheprovider -o filterwarnings=default --durations=8 "$@"; }
export -f check
export python

run() {
  local marked load="images=$images files=320"
  case $1 in
    tests)
      mapfile -t marked < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
      step "tests of the kernels" 120 bash -c 'check tests/kernels -k cuda'
      step "tests on a GPU" 200 bash -c 'check -m gpu "$@"' _ "${marked[@]}"
      ;;
    kernels)
      bench "kernels" 60 kernels threads="$threads" rounds=9
      bench "kernels at ImageNet-LT's size" 60 kernels size=imagenet_lt threads="$threads" rounds=9 \
        'cases=[memory_read,class_mean_all,class_mean_shuffled,class_mean_float16,class_mean_torch,matmul,tau_all,tau_loop_21]'
      ;;
    loader)
      bench "loader" 120 loader $load threads="$threads" copies=16 batch=256 rounds=3 peers=true \
        'cases=[fastlt_jpeg,decode_ceiling,fastlt_jpeg_class,fastlt_jpeg_sqrt,fastlt_jpeg_progressive,fastlt_raw,fastlt_auto_class,fastlt_auto_jpeg_class,decode_ceiling_cuda,decode_ceiling_repeated,decode_whole,decode_whole_cuda,decode_whole_hardware,stage_plan,stage_read,torch,dali]'
      for other in "threads=$((threads / 2)) batch=256" "threads=$((threads / 4)) batch=256" "threads=$threads batch=64"; do
        bench "loader, $other" 40 loader $load $other copies=8 rounds=3 'cases=[fastlt_jpeg,decode_ceiling]'
      done
      ;;
    train)
      for backbone in resnet50 resnext50; do
        bench "training of $backbone" 100 train $load threads="$threads" copies=16 batch=256 rounds=3 backbone=$backbone
      done
      ;;
    stage2) bench "stage 2 at ImageNet-LT's size" 100 stage2 size=imagenet_lt threads="$threads" rounds=5 ;;
  esac
}

{
  "$python" -c 'from fastlt import device; print(device.describe(device.pick_device("cuda"), 0), device.versions())'
  command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=driver_version,clocks.sm,clocks.mem --format=csv,noheader
} 2>&1 | tee -a "$out/summary.txt"
# How busy the GPU and its JPEG decoder are, a line a second, where the driver tells.
nvidia-smi dmon -s u -o T -f "$out/utilization.txt" > /dev/null 2>&1 &
monitor=$!
trap 'kill $monitor 2> /dev/null' EXIT
for name in "${steps[@]}"; do
  if [ -z "$images" ] && [[ $name == loader || $name == train ]]; then
    echo "$name: left out, it wants --images FOLDER of photographs" | tee -a "$out/summary.txt"
  else
    run "$name"
  fi
done

printf '\n== summary\n'
{
  grep -E '^[0-9]+ (passed|failed)|^(FAILED|ERROR) ' "$out/log.txt"
  [ -s "$out/rows.jsonl" ] && "$python" -m fastlt.bench.goals "$out/rows.jsonl"
  echo "$SECONDS s in all; rows and log in $out"
} | tee -a "$out/summary.txt" > /dev/null
cat "$out/summary.txt"
exit $code
