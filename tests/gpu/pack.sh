#!/bin/bash
# Makes the folder to take along to a machine with a GPU: programs, the shared libraries that such a machine lacks, networks,
# a small data set, the checks and the benchmark. There: FOLDER/run.sh (see it for what it does).
#
# usage: tests/gpu/pack.sh FOLDER [BUILD]      BUILD: a build with the CUDA backend (build)
#
# cuDNN, NCCL and the driver are not taken along: run.sh finds them there, and unpacks what is in payload.tar.gz. The folder
# must stay below 64 MiB.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
out=$1
build=$(cd "${2:-$root/build}" && pwd)
limit_mib=64

fail() {
  echo "pack.sh: $*" >&2
  exit 1
}

[ -x "$build/bin/lockstep-worker" ] || fail "there is no program in '$build/bin'; build first"
[ "$("$build/bin/lockstep-worker" backends)" = cuda ] ||
  fail "the build in '$build' has $("$build/bin/lockstep-worker" backends); a GPU needs one with CUDA"
[ ! -e "$out" ] || [ -f "$out/MANIFEST" ] || fail "'$out' is there already and is no packed folder"
rm -rf "$out"
mkdir -p "$out"
folder=$(cd "$out" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir -p "$out"/{bin,programs,lib,spare,checks,bench,data,share/lockstep}
{
  echo "commit $(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)"
  grep -E '^(CMAKE_BUILD_TYPE|LS_CUDA_ARCHITECTURES):' "$build/CMakeCache.txt" | sed 's/:[A-Z]*=/ /'
} > "$folder/MANIFEST"
cp "$folder/MANIFEST" "$out/"

# Programs and checks, without their debugging information. They are called by wrappers, which let them (and nobody else:
# python3 has its own libcrypto) find the libraries packed here.
wrap() {
  local name
  name=$(basename "$2")
  strip -o "$out/programs/$name" "$2"
  ln -s ../wrapper "$out/$1/$name"
}

cat > "$out/wrapper" <<'WRAPPER'
#!/bin/sh
# Runs the program of this name (bin/ldd NAME: shows its libraries) with the packed libraries; $LOCKSTEP_SPARE: folders with
# what the system lacks.
root=$(dirname "$(readlink -f "$0")")
name=$(basename "$0")
[ "$name" != ldd ] || { program=$root/programs/$1; set --; }
export LD_LIBRARY_PATH="$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}${LOCKSTEP_SPARE:-}"
[ "$name" != ldd ] || exec ldd "$program"
exec "$root/programs/$name" "$@"
WRAPPER
chmod +x "$out/wrapper"
ln -s ../wrapper "$out/bin/ldd"
for program in lockstep lockstepd lockstep-worker; do wrap bin "$build/bin/$program"; done
wrap bin "$build/tests/parity/parity-dump"
shopt -s nullglob
for check in "$build"/tests/gpu/test-gpu-* "$build"/tests/test-unit-collective-nccl "$build"/tests/test-unit-worker-device; do
  wrap checks "$check"
done

# Shared libraries, without those that belong to the system or to CUDA. The compiler's own go where they are used only if
# the system has none: CUDA's libraries may want newer ones.
for program in "$out"/programs/*; do
  ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    ld-linux* | libc.so* | libm.so* | libdl.so* | libpthread.so* | librt.so* | libresolv.so*) ;;
    libcud* | libnccl* | libnv* | libcublas*) ;;
    libstdc++* | libgcc_s* | libgomp*)
      mkdir "$out/spare/$(basename "$library")"  # a folder each, so that one can be had without the others
      cp -L "$library" "$out/spare/$(basename "$library")/"
      ;;
    *) cp -L "$library" "$out/lib/" ;;
  esac
done

cp -r "$root"/configs/. "$out/share/lockstep/"
cp "$root"/tests/gpu/train.py "$root"/tests/parity/test_torch.py "$out/"
cp "$root"/tests/bench/gpu.sh "$root"/tests/bench/gpu_compare.py "$root"/tests/bench/torch_gpu.py \
  "$root"/tests/bench/torch_bench.py "$out/bench/"

# Ten classes that a small network tells apart within an epoch: 28x28 grey and 32x32 in colour.
PYTHONPATH=$root/tests/user_path /usr/bin/python3 - "$out/data" <<'PYTHON'
import sys
folder, sys.argv = sys.argv[1], sys.argv[:1]
from util import write_data
write_data(folder + "/grey.h5", train=2048, test=512)
write_data(folder + "/colour.h5", train=1024, test=256, height=32, width=32, channels=3)
PYTHON

cp "$root/tests/gpu/run.sh" "$folder/"
tar -C "$out" --owner=0 --group=0 -czf "$folder/payload.tar.gz" .
size_kib=$(du -sk "$folder" | cut -f1)
[ "$size_kib" -le $((limit_mib * 1024)) ] || fail "'$folder' has $((size_kib / 1024)) MiB, allowed are $limit_mib"
echo "packed $((size_kib / 1024)) MiB into $folder, with $(find "$out/checks" -mindepth 1 | wc -l) checks: take it along and call run.sh there"
