"""Holds the include graph against the list of folders below: dependencies point down it, never up.

usage: test_include_graph.py [ROOT]

Checked: every #include between folders of src/, daemon/ and worker/; which folder may use which foreign library's
headers; and that the LINK lists of the CMakeLists.txt say the same, of every library. First the checker itself is tried on a small
tree with one wrong arrow of each kind.
"""
import os
import re
import sys
import tempfile

from tree import ROOT, c_files

# What each folder may use directly. A folder may use what those use as well.
ARROWS = {
    "proto": [],
    "base": [],
    "spec": ["base", "proto"],
    "rpc": ["base", "proto"],
    "tensor": ["base"],
    "backend": ["tensor"],
    "layers": ["backend", "spec"],
    "graph": ["layers"],
    "data": ["tensor", "spec"],
    "collective": ["backend"],
    "optim": ["backend", "spec"],
    "checkpoint": ["graph", "optim", "data"],
    "worker": ["checkpoint", "collective"],
    "daemon": ["rpc", "spec"],
    "cli": ["rpc", "worker"],
}
# Headers of another folder that may be read although nothing of it is linked: contracts between processes.
CONTRACTS = {("daemon", "worker/coordinator.h")}

# Foreign headers: pattern, and the folders (beginnings of paths) that may include them.
FOREIGN = [
    (r"^(dnnl|oneapi/)", ["src/backend/cpu/"]),
    (r"^(cuda|cudnn|cublas|curand|nvml|nvtx|device_launch|cooperative_groups)", ["src/backend/cuda/", "src/collective/nccl.c"]),
    (r"^nccl", ["src/collective/nccl.c"]),
    (r"^mpi\.h", ["src/collective/mpi.c"]),
    (r"^(hdf5|H5)", ["src/data/", "src/checkpoint/"]),
    (r"^nghttp2/", ["src/rpc/"]),
    (r"^uv\.h", ["src/rpc/", "daemon/"]),
    (r"^sqlite3\.h", ["daemon/"]),
    (r"^microhttpd\.h", ["daemon/"]),
    (r"^libfyaml\.h", ["src/spec/"]),
    (r"^(xxhash\.h|openssl/)", ["src/base/"]),
    (r"^(png|jpeglib|zlib|liburing|turbojpeg)\.h", ["src/data/"]),
    (r"^protobuf-c/", ["src/spec/", "src/rpc/", "src/cli/", "daemon/"]),
    (r"^(arm_neon|immintrin|x86intrin)\.h", ["src/backend/", "src/optim/", "src/collective/", "src/data/"]),
]


def closure(name, seen=None):
    seen = set() if seen is None else seen
    for other in ARROWS[name]:
        if other not in seen:
            seen.add(other)
            closure(other, seen)
    return seen


def folder_of(path):
    parts = path.split("/")
    return parts[1] if parts[0] == "src" else parts[0]


def check_line(path, line_number, target, quoted):
    """The complaint about one #include, or None."""
    where = f"{path}:{line_number}"
    for pattern, allowed in FOREIGN:
        if re.match(pattern, target) and not any(path.startswith(beginning) for beginning in allowed):
            return f"{where}: includes <{target}>; only {', '.join(allowed)} may"
    if not quoted:
        return None
    own = folder_of(path)
    first = target.split("/")[0]
    if "/" not in target:
        return None  # a neighbour in the same folder
    other = "proto" if target.startswith(("lockstep/v1/", "google/protobuf/", "grpc/")) else first
    if other not in ARROWS:
        return None if other in ("cpu", "cuda", "reference") else f"{where}: '{target}' lies in no known folder"
    if other == own or other in closure(own) or (own, target) in CONTRACTS:
        return None
    return f"{where}: {own} includes '{target}', but {own} may only use {', '.join(sorted(closure(own))) or 'nothing'}"


def check_tree(root):
    complaints, count = [], 0
    for path in c_files(root, ("src", "daemon", "worker")):
        if folder_of(path) not in ARROWS:
            complaints.append(f"{path}: the folder '{folder_of(path)}' is not in the list of folders")
            continue
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        if "/layers/" in path and re.search(r"#\s*if.*CUDA", text):
            complaints.append(f"{path}: a layer asks for CUDA with #if")
        for number, line in enumerate(text.split("\n"), 1):
            match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if match:
                count += 1
                complaint = check_line(path, number, match.group(2), match.group(1) == '"')
                if complaint:
                    complaints.append(complaint)
    return complaints, count


def check_cmake(root):
    """The libraries' LINK lists must be the arrows above, no more and no fewer libraries."""
    found = {"proto": []}  # generated code: links nothing of ours
    pattern = r"^(?:ls_library\((\w+)|target_link_libraries\(ls_(worker|daemon|cli) PUBLIC)([^)]*)\)"
    for path in ("CMakeLists.txt", "worker/CMakeLists.txt", "daemon/CMakeLists.txt", "src/cli/CMakeLists.txt"):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        for name, program, rest in re.findall(pattern, re.sub(r"(?m)^ +", "", text), re.MULTILINE):
            links = [w[3:] for w in rest.split() if re.match(r"ls_\w+$", w) and w != "ls_dnnl"]
            found.setdefault(name or program, []).extend(links)
    complaints = [f"CMakeLists.txt: ls_{name} is {'not there' if name in ARROWS else 'in no list of folders'}"
                  for name in set(found) ^ set(ARROWS)]
    for name, links in found.items():
        if name in ARROWS and sorted(links) != sorted(ARROWS[name]):
            complaints.append(f"CMakeLists.txt: ls_{name} links {sorted(links)}, allowed are {sorted(ARROWS[name])}")
    return complaints


def self_test():
    wrong = {
        "src/base/a.c": '#include "tensor/tensor.h"\n',
        "src/tensor/a.c": '#include "backend/backend.h"\n',
        "src/layers/a.c": "#include <dnnl.h>\n",
        "src/graph/a.h": '#  include "checkpoint/checkpoint.h"\n',
        "daemon/a.c": "#include <hdf5.h>\n",
        "daemon/b.c": '#include "worker/step.h"\n',
        "src/rpc/a.c": '#include "spec/spec.h"\n',
        "src/mystery/a.c": "\n",
        "src/layers/b.c": "#ifdef CUDA\n#endif\n",
    }
    right = {
        "src/base/b.c": '#include "base/error.h"\n#include <stdio.h>\n',
        "src/backend/cpu/a.c": '#include <dnnl.h>\n#include "tensor/tensor.h"\n#include "base/error.h"\n',
        "daemon/c.c": '#include "worker/coordinator.h"\n#include "lockstep/v1/job.pb-c.h"\n#include "daemon/store.h"\n',
        "src/checkpoint/a.c": '#include <hdf5.h>\n#include "graph/plan.h"\n',
    }
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**wrong, **right}.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        complaints, _ = check_tree(root)
        for path in ("CMakeLists.txt", "worker/CMakeLists.txt", "daemon/CMakeLists.txt", "src/cli/CMakeLists.txt"):
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write("ls_library(tensor LINK ls_spec)\nls_library(extra LINK ls_base)\n" if "/" not in path else "")
        lists = check_cmake(root)
    assert sum("not there" in c for c in lists) == len(ARROWS) - 2, lists  # all but proto and tensor
    assert any("ls_tensor links ['spec']" in c for c in lists) and any("ls_extra" in c for c in lists), lists
    named = {c.split(":")[0] for c in complaints}
    assert named == set(wrong), f"the checker is broken: missed {set(wrong) - named}, invented {named - set(wrong)}"


def main():
    self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else ROOT
    complaints, count = check_tree(root)
    complaints += check_cmake(root)
    for complaint in complaints:
        print(complaint)
    print(f"{count} includes, {len(complaints)} wrong")
    assert count > 100 or len(sys.argv) > 1, "found hardly any includes: is the tree where it should be?"
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
