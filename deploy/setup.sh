#!/bin/bash
# Builds Lockstep and installs it: programs into PREFIX/bin, networks and jobs into PREFIX/share/lockstep.
#
#   deploy/setup.sh [--prefix DIR]      PREFIX is /usr/local for root, ~/.local for anybody else
#
# Installs missing Debian packages first (as root or with sudo). Running it again installs the new build.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=$([ "$(id -u)" = 0 ] && echo /usr/local || echo "$HOME/.local")
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:?--prefix needs a folder}; shift ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup.sh: unknown option '$1' (known: --prefix)" >&2; exit 2 ;;
  esac
  shift
done
deploy/packages.sh
cmake -G Ninja -B build -S . -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF >/dev/null
ninja -C build bin/lockstep bin/lockstepd bin/lockstep-worker
cmake --install build --prefix "$prefix" >/dev/null
echo "Installed lockstep, lockstepd and lockstep-worker into $prefix/bin."
