#!/usr/bin/env bash
# GPU tests and GPU benchmarks in under nine minutes, the most important first, and a short table of them last.
#
#   tools/gpu_check.sh [--images FOLDER] [--cifar DATASET] [--out FOLDER] [STEP...]
#
# --images: photographs, for the steps that load them. --cifar: a converted CIFAR-100-LT, for the step grid. --out: where
# rows.jsonl, log.txt, summary.txt and utilization.txt go; default runs/gpu_check. Steps, all by default and in this order:
# smoke loader kernels train stage2 grid tests. PYTHON names the interpreter; fastlt need not be installed in it, nor is a
# network wanted. What a step prints is shown as it comes. Exit code 1 if a step failed or ran out of time.
#
# What takes longer is a command of its own, which may be stopped and goes on, as the full grid of CIFAR-100-LT:
#   python -m fastlt.grid grid=cifar100_lt data=DIR at_once=8 save_epochs=20 out=runs/c100
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
readonly STEPS=(smoke loader kernels train stage2 grid tests)
images="" cifar="" out=$root/runs/gpu_check steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --images) images=$(realpath -m "${2:?--images wants a folder}") && shift 2 ;;
    --cifar) cifar=$(realpath -m "${2:?--cifar wants a converted dataset}") && shift 2 ;;
    --out) out=$(realpath -m "${2:?--out wants a folder}") && shift 2 ;;
    *)
      case " ${STEPS[*]} " in
        *" $1 "*) steps+=("$1") && shift ;;
        *) echo "error: $1 is unknown: allowed are --images FOLDER, --cifar DATASET, --out FOLDER, ${STEPS[*]}" >&2 && exit 2 ;;
      esac
      ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=("${STEPS[@]}")
for folder in "$images" "$cifar"; do
  if [ -n "$folder" ] && [ ! -d "$folder" ]; then echo "error: $folder: no such folder" >&2 && exit 2; fi
done
cd "$root"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "error: $python sees no CUDA device: this check is for a machine with a GPU" >&2 && exit 2; }
"$python" -c 'import h5py, hydra, numba.cuda, nvidia.dali, submitit, torchvision' ||
  { echo "error: $python lacks a package that fastlt needs: see above" >&2 && exit 2; }

mkdir -p "$out"
rm -f "$out"/rows.jsonl "$out"/summary.txt && : > "$out/log.txt"
readonly ALL=525 # seconds for everything
threads=$(nproc)
code=0

# step NAME SECONDS COMMAND...: runs it within its time and what is left of all, its output in the log and, but for lines
# of JSON, on the screen.
step() {
  local name=$1 limit=$2 begin=$SECONDS left=$((ALL - SECONDS)) verdict
  shift 2
  [ "$left" -lt "$limit" ] && limit=$left
  [ "$limit" -lt 5 ] && echo "$name: no time left" | tee -a "$out/summary.txt" && code=1 && return
  printf '\n== %s\n' "$name" | tee -a "$out/log.txt"
  # Not a pipe, which would be waited for as long as any process that the command left behind holds its end.
  timeout --kill-after=10 "$limit" "$@" > >(tee -a "$out/log.txt" | grep --line-buffered -v '^{') 2>&1
  case $? in
    0) verdict=ok ;;
    124 | 137) verdict="OUT OF TIME after $limit s" code=1 ;;
    *) verdict=FAILED code=1 ;;
  esac
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

# One test of every room, and all that compare the GPU graph's images with the CPU graph's.
readonly SMOKE=(
  tests/gpu/test_gpu_loader.py::test_images_are_the_cpu_graphs
  tests/gpu/test_gpu_loader.py::test_evaluation_images_are_the_cpu_graphs
  tests/gpu/test_gpu_loader_promises.py::test_resuming_gives_the_remaining_samples
  'tests/gpu/test_gpu_stage2.py::test_seeds_and_settings[crt]'
  'tests/gpu/test_gpu_stage2.py::test_seeds_and_settings[tau_norm]'
  tests/gpu/test_gpu_train.py::test_a_run_is_complete
  'tests/gpu/test_gpu_predict.py::test_a_gpu_names_the_cpus_classes[first-crt]'
)

run() {
  local marked how number=0 base=("images=$images" files=320 rounds=3) load cells
  load=("${base[@]}" "threads=$threads" batch=256)
  case $1 in
    smoke)
      step "doctor" 60 "$python" -m fastlt.doctor --device cuda
      step "a test of every room" 75 bash -c 'check "$@"' _ "${SMOKE[@]}"
      ;;
    loader)
      bench "loader" 60 loader "${load[@]}" copies=16 \
        'cases=[fastlt_jpeg,decode_ceiling,fastlt_jpeg_class,fastlt_jpeg_sqrt,fastlt_jpeg_progressive]'
      bench "loader, share of the hardware's decoder" 60 loader "${load[@]}" copies=16 \
        'cases=[decode_ceiling,decode_hw0,decode_hw50,decode_hw65,decode_hw75,decode_hw90,decode_hw100,decode_whole,decode_whole_hw0,decode_whole_hw50,decode_whole_hw65,decode_whole_hw75,decode_whole_hw90,decode_whole_hw100,decode_repeated]'
      bench "loader beside others" 60 loader "${load[@]}" copies=16 peers=true 'cases=[fastlt_jpeg,dali,torch_gpu,torch]'
      bench "loader by encoding" 60 loader "${load[@]}" copies=8 \
        'cases=[fastlt_jpeg,fastlt_raw,fastlt_auto_class,fastlt_auto_jpeg_class,stage_plan,stage_read]'
      for how in "threads=$((threads / 2)) batch=256" "threads=$((threads / 4)) batch=256" "threads=$threads batch=64"; do
        bench "loader, $how" 30 loader "${base[@]}" copies=8 $how 'cases=[fastlt_jpeg,decode_ceiling]'
      done
      ;;
    kernels)
      bench "kernels" 40 kernels threads="$threads" rounds=9
      bench "kernels at ImageNet-LT's size" 40 kernels size=imagenet_lt threads="$threads" rounds=9 \
        'cases=[memory_read,class_mean_all,class_mean_shuffled,class_mean_float16,class_mean_torch,matmul,tau_all,tau_loop_21]'
      ;;
    train)
      for how in resnet50 resnext50; do
        bench "training of $how" 60 train "${load[@]}" copies=16 backbone=$how 'cases=[real,synthetic]'
      done
      ;;
    stage2) bench "stage 2 at ImageNet-LT's size" 60 stage2 size=imagenet_lt threads="$threads" rounds=5 ;;
    grid) # one cell alone, then 12 at a time: epochs per second tell how the full grid is computed best
      cells=("data=$cifar" epochs=3 'classifiers=[joint]' save_epochs=20)
      step "a cell alone" 40 "$python" -m fastlt.train "${cells[@]}" protocol=cifar_lt_200 run="$out/grid/alone"
      for how in "at_once=4" "at_once=12" "at_once=4 compile=reduce-overhead" "at_once=12 compile=reduce-overhead"; do
        number=$((number + 1))
        step "12 cells, $how" 60 "$python" -m fastlt.grid grid=cifar100_lt "${cells[@]}" $how out="$out/grid/$number"
      done
      ;;
    tests)
      step "tests of the kernels" 90 bash -c 'check tests/kernels -k cuda'
      mapfile -t marked < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
      step "tests on a GPU" 200 bash -c 'check -m gpu "$@"' _ "${marked[@]}"
      ;;
  esac
}

{
  "$python" -c 'from fastlt.core import device; print(device.describe(device.pick_device("cuda"), 0), device.versions())'
  command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=driver_version,clocks.sm,clocks.mem --format=csv,noheader
} 2>&1 | tee -a "$out/summary.txt"
# How busy the GPU and its JPEG decoder are, a line a second, where the driver tells.
nvidia-smi dmon -s u -o T -f "$out/utilization.txt" > /dev/null 2>&1 &
monitor=$!
trap 'kill $monitor 2> /dev/null' EXIT
for name in "${steps[@]}"; do
  if [ -z "$images" ] && [[ $name == loader || $name == train ]]; then
    echo "$name: left out, it wants --images FOLDER of photographs" | tee -a "$out/summary.txt"
  elif [ -z "$cifar" ] && [ "$name" = grid ]; then
    echo "$name: left out, it wants --cifar DATASET" | tee -a "$out/summary.txt"
  else
    run "$name"
  fi
done

printf '\n== summary\n'
{
  grep -E '^[0-9]+ (passed|failed)|^(FAILED|ERROR) ' "$out/log.txt"
  [ -s "$out/rows.jsonl" ] && "$python" -m fastlt.bench.goals "$out/rows.jsonl"
  [ -s "$out/utilization.txt" ] && awk '
    /^#/ { for (i = 1; i <= NF; i++) { if ($i == "sm") sm = i; if ($i == "jpg") jpg = i } next }
    { if ($sm + 0 > busy) busy = $sm + 0; if (jpg && $jpg + 0 > decoder) decoder = $jpg + 0 }
    END { printf "busiest second: GPU %d %%, its JPEG decoder %s\n", busy, jpg ? decoder " %" : "not told" }
  ' "$out/utilization.txt"
  echo "$SECONDS s in all; rows and log in $out"
} | tee -a "$out/summary.txt" > /dev/null
cat "$out/summary.txt"
exit $code
