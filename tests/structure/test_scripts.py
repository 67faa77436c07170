"""Every shell script parses, every Python file compiles, every script with a #! line is executable."""
import ast
import os
import subprocess
import sys

from tree import ROOT


def main():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = files.stdout.split("\0")[:-1] if files.returncode == 0 else []
    if not names:  # a tree without git
        for folder in ("deploy", "tests", ".ci"):
            for path, _, found in os.walk(os.path.join(ROOT, folder)):
                names += [os.path.relpath(os.path.join(path, f), ROOT) for f in found]
    bad, count = 0, 0
    for name in names:
        path = os.path.join(ROOT, name)
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            head = file.readline()
        if head.startswith(b"#!"):
            count += 1
            if not os.access(path, os.X_OK):
                bad += 1
                print(f"{name}: has a #! line but is not executable")
        if name.endswith(".py"):
            count += 1
            try:
                with open(path, encoding="utf-8") as file:
                    ast.parse(file.read(), name)
            except SyntaxError as error:
                bad += 1
                print(f"{name}: {error}")
        elif name.endswith(".sh") or b"bash" in head:
            run = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
            if run.returncode:
                bad += 1
                print(run.stderr.strip())
    print(f"{count} scripts, {bad} wrong")
    assert count >= 5
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
