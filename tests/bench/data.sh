#!/bin/bash
# The loader beside h5py + PyTorch's DataLoader: the same file, crop, flip and cores, in turn; median of the pairs.
# Also one reader beside plain pread and row copies, reading past the page cache beside fio, and JPEG beside libjpeg-turbo
# alone (libturbojpeg0).
#
#   tests/bench/data.sh [--images N] [--pairs P] [--seconds S] [--record]
#
# Needs a built tree (build/bin/lockstep), python3-h5py, python3-torch; fio for the comparison with the disk. Makes a
# file of N images of 256x256x3 (4096: 805 MB) in $TMPDIR or /tmp and removes it again.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec /usr/bin/python3 tests/bench/data_compare.py "$@"
