"""pack.sh and run.sh where there is no GPU: the folder is made and small enough; without a GPU nothing is run and one
sentence says so; with one that is pretended (a program in the place of nvidia-smi), everything up to the GPU works.

usage: test_pack.py BUILD
"""
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(sys.argv[1])


def run(*command, **environment):
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def main():
    with tempfile.TemporaryDirectory() as folder:
        packed = os.path.join(folder, "packed")
        made = run(os.path.join(ROOT, "tests/gpu/pack.sh"), packed, BUILD)
        assert made.returncode == 0 and made.stdout.startswith("packed "), made
        size = sum(os.path.getsize(os.path.join(packed, name)) for name in os.listdir(packed))
        assert 1 << 20 < size < 64 << 20, size
        again = run(os.path.join(ROOT, "tests/gpu/pack.sh"), folder, BUILD)
        assert again.returncode == 1 and "is no packed folder" in again.stderr, again
        program = os.path.join(packed, "run.sh")
        if os.path.exists("/dev/nvidia0"):
            print("there is a GPU here: run.sh itself is the test")
            sys.exit(77)
        nothing = run(program)
        assert nothing.returncode == 77 and nothing.stdout == "" and nothing.stderr == \
            "run.sh: this machine has no GPU that the NVIDIA driver shows, so nothing was run\n", nothing
        pretended = os.path.join(folder, "nvidia-smi")
        with open(pretended, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho 'GPU 0: pretended'\n")
        os.chmod(pretended, 0o755)
        path = {"PATH": folder + ":" + os.environ["PATH"], "TMPDIR": folder}
        unknown = run(program, "everything", **path)
        assert unknown.returncode == 2 and "there is no part 'everything'" in unknown.stderr, unknown
        info = run(program, "info", **path)
        assert info.returncode == 0 and "pretended" in info.stdout and "libcudnn.so.9" in info.stdout, info
        tests = run(program, "tests", OUT=folder, **path)  # they skip what needs a GPU, each with its reason
        assert tests.returncode == 0 and "test-unit-collective-nccl" in tests.stdout, tests
        assert os.path.exists(os.path.join(folder, "test-unit-collective-nccl.log"))
        daemon = run(program, "daemon", LOCKSTEP_KIND="cpu", LOCKSTEP_NVML="none", **path)
        assert daemon.returncode == 0 and "ok daemon" in daemon.stdout, daemon
        late = run(program, "exact", LOCKSTEP_KIND="cpu", LOCKSTEP_LIMIT_S="1", **path)
        assert late.returncode != 0 and "exact took longer than 1 s and was stopped" in late.stderr, late
        bench = run(program, "bench", **path)
        assert bench.returncode == 77 and "there is no GPU that python3's torch can use" in bench.stderr, bench
    print(f"ok ({size >> 20} MiB)")


if __name__ == "__main__":
    main()
