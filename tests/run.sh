#!/bin/bash
# Installs what the tests need, builds, and runs all of CTest; then the sanitizer stages.
#
#   tests/run.sh               everything that fits in CI (below 25 minutes on two cores)
#   tests/run.sh --quick       only the ordinary build and its tests
#   tests/run.sh --long        and the long ones (label "long")
#   tests/run.sh -R REGEX      only tests whose name matches (passed on to ctest; no sanitizers)
#
# Exit code 0: all passed. Folders: build/ (ordinary), build-asan/, build-tsan/.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=0 long=0 filter=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --long) long=1 ;;
    -R) filter=(-R "${2:?-R needs a regular expression}"); quick=1; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown option '$1' (known: --quick, --long, -R REGEX)" >&2; exit 2 ;;
  esac
  shift
done
jobs=$(nproc)
[ "$jobs" -gt 8 ] && jobs=8
started=$SECONDS
failed=()

stage() { printf '\n=== %s  (%d:%02d)\n' "$1" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)); }

# build FOLDER TYPE SANITIZE
build() {
  cmake -G Ninja -B "$1" -S . -DCMAKE_BUILD_TYPE="$2" -DLS_SANITIZE="$3" -DBUILD_TESTING=ON >"$1.configure.log" 2>&1 || {
    cat "$1.configure.log" >&2
    rm -f "$1.configure.log"
    return 1
  }
  rm -f "$1.configure.log"
  ninja -C "$1" -j "$jobs" --quiet
}

# run_ctest NAME FOLDER ARGUMENT...
run_ctest() {
  local name=$1 folder=$2
  shift 2
  (cd "$folder" && ctest --output-on-failure --no-tests=error -j "$jobs" "$@") || failed+=("$name")
}

stage "packages"
deploy/packages.sh --tests

stage "build"
build build RelWithDebInfo ""

stage "tests"
exclude=(-LE long)
[ "$long" = 1 ] && exclude=()
run_ctest tests build "${exclude[@]}" "${filter[@]}"

if [ "$quick" = 0 ]; then
  # Foreign libraries are not instrumented: leaks and races inside them are listed in tests/sanitizer/.
  stage "build with AddressSanitizer and UndefinedBehaviorSanitizer"
  build build-asan RelWithDebInfo address,undefined
  stage "unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
  export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=1
  export LSAN_OPTIONS=suppressions=$PWD/tests/sanitizer/leaks.txt:print_suppressions=0
  export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
  run_ctest "tests under ASan and UBSan" build-asan -R '^(unit|gradient|parity|daemon)/' -LE "long|no-sanitizer"

  stage "build with ThreadSanitizer"
  build build-tsan RelWithDebInfo thread
  stage "threaded tests under ThreadSanitizer"
  export TSAN_OPTIONS=suppressions=$PWD/tests/sanitizer/races.txt:halt_on_error=1:ignore_noninstrumented_modules=1
  run_ctest "tests under TSan" build-tsan -R '^unit/(base|data|collective|checkpoint|worker|rpc)/' -LE "long|no-sanitizer"
fi

stage "done"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "All passed."
