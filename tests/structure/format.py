"""Formats every C file with clang-format, or says (--check) which ones differ from .clang-format.

usage: format.py [--check] [FILE...]
"""
import os
import shutil
import subprocess
import sys

from tree import ROOT, c_files


def main():
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool:
        sys.exit("clang-format is missing (package clang-format-14)")
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    files = [f for f in arguments or c_files() if not f.endswith(".cu")]
    check = ["--dry-run", "-Werror", "--ferror-limit=2"] if "--check" in sys.argv[1:] else ["-i"]
    result = subprocess.run([tool, "--style=file", *check, *files], cwd=ROOT, env={**os.environ, "LC_ALL": "C"})
    if result.returncode:
        print("\nnot formatted; run: /usr/bin/python3 tests/structure/format.py", file=sys.stderr)
    sys.exit(result.returncode)


if __name__ == "__main__":
    main()
