#!/bin/bash
# Runs what tests/gpu/pack.sh packed, on a machine with a GPU. A call ends within LOCKSTEP_LIMIT_S seconds (560): one part a
# call, where calls are limited; `exact` and `bench` one case a call.
#
# usage: run.sh [PART [ARGUMENT...]]     (without PART: info, then tests, then as much of exact as the limit leaves time for)
#
#   info       what GPU, driver, cuDNN, NCCL and PyTorch there are
#   tests      the checks of the CUDA backend, of the collective over NCCL (several processes on one GPU), of the workers;
#              all at once, each with a log of its own
#   torch      whole networks against PyTorch's values
#   exact      a job gives the same digest run to run, on 1 to 8 workers of one GPU, and stopped and resumed.
#              [MODEL [PRECISION]] of these: lenet-caffe, resnet20; float32, tf32, bfloat16, float16 (else: all)
#   daemon     lockstepd with the GPU: devices, a job
#   sanitizer  compute-sanitizer over a small network, looking at our kernels: [memcheck | initcheck | racecheck] (else: all)
#   bench      beside PyTorch; arguments go to bench/gpu.sh. One --only a call:
#                run.sh bench --only resnet50:256 --record
#              and quick, if that takes too long:
#                run.sh bench --only resnet50:256 --record --precisions bfloat16 --modes default --pairs 3
#
# Results go to $OUT where that is set. Ends with 77 where there is no GPU.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
limit_s=${LOCKSTEP_LIMIT_S:-560}

stop() {
  echo "run.sh: $*" >&2
  exit "${code:-1}"
}

[ "${1:-}" != --help ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0; }
gpus=$(nvidia-smi -L 2> /dev/null)  # not through a pipe: grep -q ends early, and pipefail takes that for a failure
if ! grep -q '^GPU ' <<< "$gpus" && ! compgen -G '/dev/nvidia[0-9]*' > /dev/null; then
  code=77 stop "this machine has no GPU that the NVIDIA driver shows, so nothing was run"
fi
[ -f "$here/payload.tar.gz" ] || code=2 stop "'$here' holds no payload.tar.gz; tests/gpu/pack.sh makes the folder to run this in"

# Unpacked once; later calls find it.
root=${TMPDIR:-/tmp}/lockstep-gpu-$(cksum < "$here/payload.tar.gz" | tr ' ' -)
if [ ! -d "$root" ]; then
  fresh=$(mktemp -d "$root.XXXXXX") && tar -C "$fresh" -xzf "$here/payload.tar.gz" && mv "$fresh" "$root" ||
    stop "cannot unpack '$here/payload.tar.gz' to '$root'"
fi

# cuDNN and NCCL: where PyTorch's wheels put them, else where the system or the toolkit has them.
wheels=$(python3 - 2>/dev/null <<'PYTHON'
import glob, site, sys
places = site.getsitepackages() + [site.getusersitepackages()] + sys.path
print(":".join(dict.fromkeys(d for p in places if p for d in sorted(glob.glob(p + "/nvidia/*/lib")))))
PYTHON
)
toolkit=
for folder in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib /usr/lib/x86_64-linux-gnu; do
  [ ! -d "$folder" ] || toolkit=${toolkit:+$toolkit:}$folder
done
# CUDA's folders alone: what we packed is for our programs (the wrappers in bin/), not for python3.
export LD_LIBRARY_PATH=${wheels:+$wheels:}${toolkit:+$toolkit:}${LD_LIBRARY_PATH:-}
LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
known=$(ldconfig -p)
export LOCKSTEP_SPARE=
for library in libstdc++.so.6 libgcc_s.so.1 libgomp.so.1; do
  grep -q "^[[:space:]]*$library " <<< "$known" || LOCKSTEP_SPARE=$LOCKSTEP_SPARE:$root/spare/$library
done

find_library() {
  local folder
  for folder in ${LD_LIBRARY_PATH//:/ }; do
    [ -e "$folder/$1" ] && { echo "$folder/$1"; return; }
  done
  awk -v name="$1" '$1 == name {print $NF; exit}' <<< "$known"
}

cudnn=$(find_library libcudnn.so.9)
nccl=$(find_library libnccl.so.2)
[ -n "$cudnn" ] || stop "libcudnn.so.9 is neither in PyTorch's wheels nor on the system"
[ -z "$nccl" ] || export LOCKSTEP_NCCL=$nccl
missing=$("$root/bin/ldd" lockstep | awk '/not found/ {print $1}' | paste -sd' ')
[ -z "$missing" ] || stop "shared libraries are missing: $missing"
# The choices of kernels live beside the programs, whether there is a HOME or not: else every run would measure for itself,
# and runs of one job might differ.
export XDG_CACHE_HOME=$root/cache
export LOCKSTEP=$root/bin/lockstep LOCKSTEP_CONFIGS=$root/share/lockstep NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

info() {
  nvidia-smi --query-gpu=index,name,driver_version,memory.total,compute_mode --format=csv
  cat "$root/MANIFEST"
  echo "cuDNN $cudnn"
  echo "NCCL ${nccl:-none}"
  echo "libraries that this machine lacks:$(for folder in ${LOCKSTEP_SPARE//:/ }; do echo -n " $(basename "$folder")"; done)"
  python3 -c 'import torch; print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())' ||
    echo "no PyTorch here: nothing to compare with"
}

# All at once: they share the GPU, the machine has cores enough.
tests() {
  local check name failed=0
  for check in "$root"/checks/*; do
    name=$(basename "$check")
    {
      timeout 500 "$check" > "$work/$name.log" 2>&1
      echo $? > "$work/$name.status"
    } &
  done
  wait
  for check in "$root"/checks/*; do
    name=$(basename "$check")
    case $(cat "$work/$name.status") in
      0) echo "ok      $name" ;;
      77) echo "skipped $name: $(tail -1 "$work/$name.log")" ;;
      124) echo "FAILED  $name: not done after 500 s"; tail -40 "$work/$name.log"; failed=1 ;;
      *) echo "FAILED  $name"; tail -40 "$work/$name.log"; failed=1 ;;
    esac
    [ -z "${OUT:-}" ] || cp "$work/$name.log" "$OUT/"
  done
  return $failed
}

torch() { python3 "$root/test_torch.py" "$root/bin/parity-dump" cuda; }
exact() { python3 "$root/train.py" exact "$work" "$@"; }
daemon() { python3 "$root/train.py" daemon "$work"; }

# Our kernels alone are looked at (all of them take a struct ls_k_...): what cuDNN does is its own affair, and failed calls
# inside it (trying what a GPU can do) are no errors. initcheck must see who writes what our kernels read, so it looks at
# all kernels, and its reports are filtered. racecheck sees shared memory only, which our kernels do not use: quickly done.
sanitizer() {
  command -v compute-sanitizer > /dev/null || { echo "run.sh: compute-sanitizer is not on the PATH" >&2; return 1; }
  local tool log options status failed=0 found help filter=--kernel-name
  help=$(compute-sanitizer --help)
  grep -q -- --kernel-name <<< "$help" || filter=--kernel-regex  # its name until 2023
  for tool in ${1:-memcheck initcheck racecheck}; do
    log=$work/sanitizer-$tool.log
    options=(--tool "$tool" --target-processes all --print-limit 10000 --error-exitcode 9)
    case $tool in
      memcheck) options+=(--report-api-errors no "$filter" kns=ls_k_) ;;
      racecheck) options+=("$filter" kns=ls_k_) ;;
    esac
    compute-sanitizer "${options[@]}" "$LOCKSTEP" bench lenet-caffe --kind gpu --batch 16 --shards 2 --steps 2 > "$log" 2>&1
    status=$?
    found=1
    [ "$tool" = initcheck ] || found=$status
    if [ "$tool" = initcheck ] && { [ $status -eq 0 ] || [ $status -eq 9 ]; }; then
      found=$(grep -c '^=* *at .*ls_k_' "$log")
    fi
    [ -z "${OUT:-}" ] || cp "$log" "$OUT/"
    if [ "$found" -eq 0 ]; then
      echo "ok      $tool: $(grep -E 'SUMMARY' "$log" | tail -1)"
    else
      echo "FAILED  $tool (exit code $status)"
      tail -60 "$log"
      failed=1
    fi
  done
  return $failed
}

bench() { "$root/bench/gpu.sh" "$@"; }

# Each part runs in a shell of its own, within what is left of the limit.
part() {
  local left_s=$((limit_s - SECONDS)) status
  [ $left_s -gt 0 ] || left_s=1
  echo "== $*"
  LOCKSTEP_PART=1 timeout -k 10 $left_s bash "$here/run.sh" "$@"
  status=$?
  [ $status -ne 124 ] || echo "run.sh: $1 took longer than $left_s s and was stopped" >&2
  return $status
}

case ${1:-} in
  "") part info && part tests && part exact ;;
  info | tests | torch | exact | daemon | sanitizer | bench) if [ -n "${LOCKSTEP_PART:-}" ]; then "$@"; else part "$@"; fi ;;
  *) code=2 stop "there is no part '$1' (info, tests, torch, exact, daemon, sanitizer, bench)" ;;
esac
