#!/bin/bash
# Runs what tests/gpu/pack.sh packed, on a machine with a GPU: every part in a call of its own, of at most ten minutes.
#
# usage: run.sh [PART [ARGUMENT...]]     (without PART: info, tests, exact)
#
#   info       what GPU, driver, cuDNN, NCCL and PyTorch there are
#   tests      the checks of the CUDA backend, of the collective over NCCL (several processes on one GPU), of the workers
#   torch      whole networks against PyTorch's values
#   exact      a job gives the same digest run to run, on 1 to 8 workers of one GPU, and stopped and resumed; all precisions
#   daemon     lockstepd with the GPU: devices, a job
#   sanitizer  compute-sanitizer (memcheck, racecheck) over a small network
#   bench      beside PyTorch: arguments go to bench/gpu.sh (--only resnet50:256, --record)
#
# Results go to $OUT where that is set. Ends with 77 where there is no GPU.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
limit_s=${LOCKSTEP_LIMIT_S:-590}

stop() {
  echo "run.sh: $*" >&2
  exit "${code:-1}"
}

[ "${1:-}" != --help ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0; }
if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && ! compgen -G '/dev/nvidia[0-9]*' > /dev/null; then
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
  [ ! -d "$folder" ] || toolkit=$toolkit:$folder
done
export LD_LIBRARY_PATH=$root/lib${wheels:+:$wheels}$toolkit${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
for library in libstdc++.so.6 libgcc_s.so.1 libgomp.so.1; do
  ldconfig -p | grep -q "$library " || export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$root/spare
done

find_library() {
  local folder
  for folder in ${LD_LIBRARY_PATH//:/ }; do
    [ -e "$folder/$1" ] && { echo "$folder/$1"; return; }
  done
  ldconfig -p | awk -v name="$1" '$1 == name {print $NF; exit}'
}

cudnn=$(find_library libcudnn.so.9)
nccl=$(find_library libnccl.so.2)
[ -n "$cudnn" ] || stop "libcudnn.so.9 is neither in PyTorch's wheels nor on the system"
[ -z "$nccl" ] || export LOCKSTEP_NCCL=$nccl
missing=$(ldd "$root/bin/lockstep" | awk '/not found/ {print $1}' | paste -sd' ')
[ -z "$missing" ] || stop "shared libraries are missing: $missing"
export LOCKSTEP=$root/bin/lockstep LOCKSTEP_CONFIGS=$root/share/lockstep NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

info() {
  nvidia-smi --query-gpu=index,name,driver_version,memory.total,compute_mode --format=csv
  cat "$root/MANIFEST"
  echo "cuDNN $cudnn"
  echo "NCCL ${nccl:-none}"
  python3 -c 'import torch; print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())' ||
    echo "no PyTorch here: nothing to compare with"
}

tests() {
  local check failed=0 log
  for check in "$root"/checks/*; do
    log=$work/$(basename "$check").log
    timeout 300 "$check" > "$log" 2>&1
    case $? in
      0) echo "ok      $(basename "$check")" ;;
      77) echo "skipped $(basename "$check"): $(tail -1 "$log")" ;;
      *) echo "FAILED  $(basename "$check")"; tail -40 "$log"; failed=1 ;;
    esac
    [ -z "${OUT:-}" ] || cp "$log" "$OUT/"
  done
  return $failed
}

torch() { python3 "$root/test_torch.py" "$root/bin/parity-dump" cuda; }
exact() { python3 "$root/train.py" exact "$work"; }
daemon() { python3 "$root/train.py" daemon "$work"; }

sanitizer() {
  command -v compute-sanitizer > /dev/null || { echo "run.sh: compute-sanitizer is not on the PATH" >&2; return 1; }
  local tool
  for tool in memcheck racecheck; do
    echo "compute-sanitizer $tool:"
    compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$LOCKSTEP" bench lenet-caffe --kind gpu --batch 16 --shards 2 --steps 2 || return 1
  done
}

bench() { "$root/bench/gpu.sh" "$@"; }

# Each part runs in a shell of its own, within the limit.
part() {
  echo "== $1"
  LOCKSTEP_PART=1 timeout -k 10 "$limit_s" bash "$here/run.sh" "$@"
  local status=$?
  [ $status -ne 124 ] || echo "run.sh: $1 took longer than $limit_s s and was stopped" >&2
  return $status
}

case ${1:-} in
  "") part info && part tests && part exact ;;
  info | tests | torch | exact | daemon | sanitizer | bench) if [ -n "${LOCKSTEP_PART:-}" ]; then "$@"; else part "$@"; fi ;;
  *) code=2 stop "there is no part '$1' (info, tests, torch, exact, daemon, sanitizer, bench)" ;;
esac
