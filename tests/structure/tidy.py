"""Runs clang-tidy (.clang-tidy) over every C file that the build compiles; fails on any finding.

usage: tidy.py BUILD_FOLDER [FILE...]

A file that passed is not looked at again until it, a header of the project or .clang-tidy changes (BUILD/tidy-cache).
"""
import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys

from tree import ROOT, c_files


def digest(paths):
    sha = hashlib.sha256()
    for path in paths:
        with open(os.path.join(ROOT, path), "rb") as file:
            sha.update(path.encode() + b"\0" + file.read() + b"\0")
    return sha.hexdigest()


def main():
    tool = shutil.which("clang-tidy-14") or shutil.which("clang-tidy")
    if not tool:
        sys.exit("clang-tidy is missing (packages clang-tidy-14 and libomp-14-dev, for its omp.h)")
    build = os.path.abspath(sys.argv[1])
    with open(os.path.join(build, "compile_commands.json")) as file:
        compiled = {os.path.relpath(c["file"], ROOT) for c in json.load(file)}
    files = sys.argv[2:] or [f for f in c_files() if f.endswith(".c") and f in compiled]
    if not files or (not sys.argv[2:] and len(files) < 100):
        sys.exit(f"clang-tidy: only {len(files)} C files of {ROOT} are in {build}/compile_commands.json")
    headers = [f for f in c_files() if f.endswith(".h")]
    common = digest([".clang-tidy", *headers])
    cache = os.path.join(build, "tidy-cache")
    os.makedirs(cache, exist_ok=True)
    extra = [f"--extra-arg={a}" for a in ("-Wno-unknown-warning-option", "-Wno-unused-command-line-argument",
                                          "-Wno-unknown-pragmas")]

    def check(path):
        mark = os.path.join(cache, hashlib.sha256((common + digest([path])).encode()).hexdigest())
        if os.path.exists(mark):
            return 0, ""
        run = subprocess.run([tool, "--quiet", "-p", build, *extra, path], cwd=ROOT, capture_output=True, text=True)
        if run.returncode == 0:
            open(mark, "w").close()
        return run.returncode, run.stdout + (run.stderr if run.returncode and not run.stdout.strip() else "")

    bad = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for path, (code, text) in zip(files, pool.map(check, files)):
            if code:
                bad += 1
                print(f"--- {path}\n{text.strip()}\n")
    print(f"clang-tidy: {len(files)} files, {bad} with findings")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
