#!/bin/bash
# Throughput of the CPU engine beside Debian's PyTorch: for each network ours and the peer in turn, pairwise ratio,
# median of five pairs. Options are those of tests/bench/compare.py (--only resnet20, --pairs 5, --record, --check).
#
# Needs a built tree (build/bin/lockstep) and python3-torch with libopenblas0-pthread, without which PyTorch's fully
# connected layers are several times slower and the comparison would flatter us.
set -euo pipefail
cd "$(dirname "$0")/../.."
dpkg-query -W -f '${db:Status-Status}\n' libopenblas0-pthread 2>/dev/null | grep -qx installed || {
  echo "cpu.sh: libopenblas0-pthread is missing (deploy/packages.sh --tests installs it)" >&2
  exit 1
}
exec /usr/bin/python3 tests/bench/compare.py "$@"
