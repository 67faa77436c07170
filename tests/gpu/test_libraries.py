"""What is missing on a machine is said in a sentence by the coordinator, before the daemon gives it a GPU: a part of cuDNN
(without it cuDNN itself ends the process, or has no engine for anything). A driver that is too old is named too."""
import os
import subprocess
import sys

WORKER, LOCKSTEP, HIDE, OLD_DRIVER = sys.argv[1:5]


def backends(hidden):
    environment = dict(os.environ, LD_PRELOAD=HIDE, HIDE_LIBRARY=hidden)
    result = subprocess.run([WORKER, "backends"], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout.count("\n") == 1, (hidden, result)
    return result.stdout


assert backends("libcudnn_of_nobody") == "cuda\n"
for part in ("graph", "heuristic", "engines_precompiled", "engines_runtime_compiled"):
    says = backends(f"libcudnn_{part}.")
    assert says.startswith(f"no cuda: cuDNN is not whole here: its library libcudnn_{part}.so.9 cannot be loaded"), says
    print(says, end="")

old = subprocess.run([LOCKSTEP, "bench", "lenet5", "--kind", "gpu", "--steps", "1"], capture_output=True, text=True, timeout=120,
                     env=dict(os.environ, LD_LIBRARY_PATH=os.path.dirname(OLD_DRIVER)))
assert old.returncode == 2 and old.stderr.count("\n") == 1, old
assert "gpu was asked for, but the NVIDIA driver is for CUDA 12.4, this build needs " in old.stderr, old
print(old.stderr, end="")
