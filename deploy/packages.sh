#!/bin/bash
# Installs the Debian packages of deploy/packages.txt that are missing, and says what it does.
#
#   deploy/packages.sh          what building and running need
#   deploy/packages.sh --tests  and what the tests need
#   deploy/packages.sh --list   prints the missing ones and installs nothing (exit code 1 when there are any)
#
# Needs root or sudo only when something is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
want_tests=0 list_only=0
for argument in "$@"; do
  case $argument in
    --tests) want_tests=1 ;;
    --list) list_only=1 ;;
    *) echo "packages.sh: unknown option '$argument' (known: --tests, --list)" >&2; exit 2 ;;
  esac
done

wanted=$(awk -v tests="$want_tests" '/^# tests/ && !tests {exit} /^[a-z0-9]/ {print $1}' "$here/packages.txt")

# A package counts as there when it, or one that provides it, is installed.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' 2>/dev/null |
  awk '$1 == "installed" {gsub(/\([^)]*\)|,/, " "); for (i = 2; i <= NF; i++) print $i}' | sort -u)
missing=()
for package in $wanted; do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$list_only" = 1 ]; then
  printf '%s\n' "${missing[@]}"
  exit 1
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null; then
    as_root=(sudo)
  else
    echo "packages.sh: these packages are missing, and neither root nor sudo is there to install them:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -qq \
    -o Dpkg::Use-Pty=0 "${missing[@]}" >"$log" 2>&1
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The lists may be missing (a fresh image) or too old: fetch them when they are, or when the first try fails.
update() { "${as_root[@]}" apt-get update -qq >>"$log" 2>&1; }
if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then update || true; fi
if ! install; then
  update || true
  if ! install; then
    tail -n 20 "$log" >&2
    echo "packages.sh: apt-get could not install them" >&2
    exit 1
  fi
fi
