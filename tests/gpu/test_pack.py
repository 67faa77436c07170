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


def pretend(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)


# What ldconfig -p prints, much longer than a pipe holds; without libgomp.
LIBRARIES = "\tlibstdc++.so.6 (libc6) => /lib/a\n\tlibgcc_s.so.1 (libc6) => /lib/b\n" + \
    "\tlibother.so.1 (libc6) => /lib/other\n" * 9000


def check_libraries(folder, program, path):
    """Only what is missing is taken from the folder, and python3 sees nothing of what is packed."""
    listed = os.path.join(folder, "libraries")
    with open(listed, "w", encoding="utf-8") as file:
        file.write(LIBRARIES)
    pretend(folder, "ldconfig", f"cat {listed}\n")
    pretend(folder, "python3", "echo python3 with ${LD_LIBRARY_PATH-} >&2\n")
    info = run(program, "info", **path)
    os.remove(os.path.join(folder, "ldconfig"))
    os.remove(os.path.join(folder, "python3"))
    assert info.returncode == 0, info
    assert "libraries that this machine lacks: libgomp.so.1\n" in info.stdout, info
    assert "python3 with " in info.stderr and "lockstep-gpu" not in info.stderr, info


def check_sanitizer(folder, program, path):
    """compute-sanitizer is asked for our kernels; of what initcheck finds, that in our kernels counts."""
    pretend(folder, "compute-sanitizer", """
case " $* " in
  *" --help "*) echo '  --kernel-name arg'; exit 0 ;;
  *" memcheck "*" --report-api-errors no --kernel-name kns=ls_k_ "*) exit 0 ;;
  *" racecheck "*" --kernel-name kns=ls_k_ "*) echo '===== ERROR SUMMARY: 1 error'; exit 9 ;;
  *" initcheck "*" kns="*) exit 3 ;;
  *" initcheck "*) echo "=========     at $FOUND+0x10"; exit 9 ;;
esac
exit 4
""")
    for tool, found, code in (("memcheck", "", 0), ("racecheck", "", 1), ("initcheck", "cudnn_kernel_x(long)", 0),
                              ("initcheck", "(anonymous namespace)::kernel_add(ls_k_add, long)", 1)):
        checked = run(program, "sanitizer", tool, FOUND=found, **path)
        assert checked.returncode == code and f"{'FAILED' if code else 'ok    '}  {tool}" in checked.stdout, checked
    os.remove(os.path.join(folder, "compute-sanitizer"))


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
        pretend(folder, "nvidia-smi", "echo 'GPU 0: pretended'\n")
        path = {"PATH": folder + ":" + os.environ["PATH"], "TMPDIR": folder}
        unknown = run(program, "everything", **path)
        assert unknown.returncode == 2 and "there is no part 'everything'" in unknown.stderr, unknown
        info = run(program, "info", **path)
        assert info.returncode == 0 and "pretended" in info.stdout and "libcudnn.so.9" in info.stdout, info
        check_libraries(folder, program, path)
        check_sanitizer(folder, program, path)
        tests = run(program, "tests", OUT=folder, **path)  # they skip what needs a GPU, each with its reason
        assert tests.returncode == 0 and "test-unit-collective-nccl" in tests.stdout, tests
        assert os.path.exists(os.path.join(folder, "test-unit-collective-nccl.log"))
        daemon = run(program, "daemon", LOCKSTEP_KIND="cpu", LOCKSTEP_NVML="none", **path)
        assert daemon.returncode == 0 and "ok daemon" in daemon.stdout, daemon
        wrong = run(program, "exact", "lenet-caffe", "float7", LOCKSTEP_KIND="cpu", **path)
        assert wrong.returncode == 1 and "PRECISION one of float32" in wrong.stderr, wrong
        late = run(program, "exact", LOCKSTEP_KIND="cpu", LOCKSTEP_LIMIT_S="1", **path)
        assert late.returncode != 0 and "exact took longer than 1 s and was stopped" in late.stderr, late
        bench = run(program, "bench", **path)
        assert bench.returncode == 77 and "there is no GPU that python3's torch can use" in bench.stderr, bench
    print(f"ok ({size >> 20} MiB)")


if __name__ == "__main__":
    main()
