#!/bin/bash
# From a fresh Debian 12 to a trained network, in one command and without root (but for missing packages).
#
#   deploy/quickstart.sh            install what is missing, build, start lockstepd, import Fashion-MNIST, train LeNet
#   deploy/quickstart.sh --stop     stop the lockstepd that it started (a running job goes on)
#
# Options: --state DIR     everything lives below it (~/.local/state/lockstep)
#          --job FILE      another job file (configs/jobs/fashion-lenet.yaml)
#          --set KEY=VALUE change one key of the job; may be repeated
#          --data FILE.h5  data set already imported, with the groups /train and /test; nothing is imported
#          --build DIR     where it is built (build/)
#          --http PORT     port of the status page on loopback (8470, or the next free one)
#          --no-install    fail instead of installing packages
#          --no-build      use what is in the build folder
#
# Ends with the test accuracy, where the model lies, and the status page's address. Running it again is harmless: what
# is there is used again, only the training is done anew, as a new job.
set -euo pipefail
cd "$(dirname "$0")/.."
source_dir=$PWD
state=${XDG_STATE_HOME:-${HOME:?HOME is not set}/.local/state}/lockstep
job=configs/jobs/fashion-lenet.yaml
build=build data="" port="" install=1 make=1 stop=0 settings=()

die() { echo "quickstart.sh: $1" >&2; exit "${2:-1}"; }
usage() { sed -n '2,18s/^# \{0,1\}//p' "$source_dir/deploy/quickstart.sh"; }
while [ $# -gt 0 ]; do
  case $1 in
    --state | --job | --set | --data | --build | --http)
      [ $# -ge 2 ] || die "$1 needs a value" 2
      case $1 in
        --state) state=$2 ;;
        --job) job=$2 ;;
        --set) settings+=(--set "$2") ;;
        --data) data=$2 ;;
        --build) build=$2 ;;
        --http) port=$2 ;;
      esac
      shift ;;
    --no-install) install=0 ;;
    --no-build) make=0 ;;
    --stop) stop=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option '$1' (see --help)" 2 ;;
  esac
  shift
done
case $state in /*) ;; *) state=$PWD/$state ;; esac
case $build in /*) ;; *) build=$PWD/$build ;; esac
lockstep=$build/bin/lockstep lockstepd=$build/bin/lockstepd
socket=$state/lockstepd.sock
export LOCKSTEP_ADDRESS=unix:$socket

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
[ -t 1 ] || say() { printf '\n%s\n' "$1"; }

# Is the process of the pid file our daemon, and not somebody who got its number since?
daemon_pid() {
  local pid
  pid=$(cat "$state/lockstepd.pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$lockstepd" ] && echo "$pid"
}

stop_daemon() {
  local pid
  pid=$(daemon_pid) || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  for _ in $(seq 200); do
    kill -0 "$pid" 2>/dev/null || { rm -f "$state/lockstepd.pid"; return 0; }
    sleep 0.05
  done
  die "lockstepd (process $pid) does not stop"
}

if [ "$stop" = 1 ]; then
  if daemon_pid >/dev/null; then stop_daemon; echo "lockstepd is stopped."; else echo "lockstepd is not running."; fi
  exit 0
fi

# ---- packages and build
if [ "$install" = 1 ]; then
  deploy/packages.sh
else
  deploy/packages.sh --list >/dev/null || die "packages are missing: $(deploy/packages.sh --list | xargs)"
fi
if [ "$make" = 1 ]; then
  say "Building into $build"
  # A folder that was configured before keeps its choices (tests on or off, build type).
  [ -f "$build/build.ninja" ] ||
    cmake -G Ninja -B "$build" -S . -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF >"$build.log" 2>&1 ||
    { cat "$build.log" >&2; die "CMake failed"; }
  rm -f "$build.log"
  ninja -C "$build" bin/lockstep bin/lockstepd bin/lockstep-worker
fi
for program in "$lockstep" "$lockstepd" "$build/bin/lockstep-worker"; do
  [ -x "$program" ] || die "'$program' is missing: build it first (without --no-build)"
done

# ---- daemon
mkdir -p "$state"
chmod 700 "$state"
answers() { "$lockstep" devices >/dev/null 2>&1; }
port_of() { cat "$state/http.port" 2>/dev/null || true; }

# A port nobody listens on, from 8470 on.
free_port() {
  local p
  for p in $(seq 8470 8569); do
    (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return 0; }
  done
  return 1
}

# A daemon from before that runs an older build is replaced; its jobs go on.
if pid=$(daemon_pid) && readlink "/proc/$pid/exe" | grep -q ' (deleted)$'; then stop_daemon; fi
if pid=$(daemon_pid) && answers; then
  say "lockstepd is running already (process $pid)"
  port=$(port_of)
else
  stop_daemon
  [ -n "$port" ] || port=$(free_port) || die "no free port between 8470 and 8569"
  say "Starting lockstepd: socket $socket, log $state/lockstepd.log"
  setsid nohup "$lockstepd" --state "$state" --socket "$socket" --http "127.0.0.1:$port" \
    </dev/null >>"$state/lockstepd.log" 2>&1 &
  pid=$!
  echo "$pid" >"$state/lockstepd.pid"
  echo "$port" >"$state/http.port"
  for _ in $(seq 200); do
    answers && break
    kill -0 "$pid" 2>/dev/null || { tail -n 5 "$state/lockstepd.log" >&2; die "lockstepd did not start"; }
    sleep 0.05
  done
  answers || die "lockstepd does not answer (see $state/lockstepd.log)"
fi

# ---- data
if [ -z "$data" ]; then
  data=$state/data/fashion-mnist.h5
  if [ ! -f "$data" ]; then
    say "Importing Fashion-MNIST into $data"
    mkdir -p "$state/data"
    "$lockstep" data import /usr/share/datasets/fashion-mnist "$data"
  fi
fi
case $data in /*) ;; *) data=$PWD/$data ;; esac
[ -f "$data" ] || die "the data set '$data' does not exist"

# ---- train
say "Training ($job)"
"$lockstep" submit "$job" --watch --set "data.train=$data:/train" --set "data.validation=$data:/test" "${settings[@]}" |
  tee "$state/quickstart.out"
accuracy=$(sed -n 's/^test accuracy: //p' "$state/quickstart.out" | tail -n 1)
model=$(sed -n 's/^model: //p' "$state/quickstart.out" | tail -n 1)
[ -n "$accuracy" ] || die "the job ended without a test accuracy"
[ -f "$model" ] || die "the model '$model' is not there"

say "Done."
echo "test accuracy: $accuracy"
echo "model:         $model"
echo "status page:   http://127.0.0.1:$port/"
echo "Next: export LOCKSTEP_ADDRESS=$LOCKSTEP_ADDRESS; $lockstep list"
