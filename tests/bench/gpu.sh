#!/bin/bash
# Training speed on one GPU beside PyTorch (channels_last, AMP, torch.compile): ours and the peer in turn, pairwise ratio,
# median of the pairs, against the bars in gpu_compare.py. Options are those of gpu_compare.py (--only resnet50:256, --pairs 5,
# --record, --check).
#
# Needs a built program (LOCKSTEP, else build/bin/lockstep) with the CUDA backend, and a python3 whose torch sees the GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" != --help ] && [ "${LOCKSTEP_KIND:-gpu}" = gpu ] && ! python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
  echo "gpu.sh: there is no GPU that python3's torch can use, so there is nothing to measure" >&2
  exit 77
fi
exec python3 "$here/gpu_compare.py" "$@"
