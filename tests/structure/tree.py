"""The C files of the project, for the tests of its structure."""
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("src", "daemon", "worker", "tests", "proto")


def c_files(root=ROOT, folders=FOLDERS, endings=(".c", ".h", ".cu")):
    found = []
    for folder in folders:
        for path, names, files in os.walk(os.path.join(root, folder)):
            names.sort()
            found += [os.path.relpath(os.path.join(path, f), root) for f in sorted(files) if f.endswith(endings)]
    return found
