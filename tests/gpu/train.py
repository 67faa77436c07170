#!/usr/bin/env python3
"""Whole jobs on one GPU, for tests/gpu/run.sh; needs nothing but Python and the packed folder.

usage: train.py exact FOLDER [MODEL [PRECISION]]
       train.py daemon FOLDER             (LOCKSTEP: the program; LOCKSTEP_KIND=cpu tries the script itself without a GPU)

exact   a job's digest is the same run to run, on 1, 2, 4 and 8 workers, and over a stop and a resume on another number of
        them, in every precision; and it learns. MODEL, PRECISION: of these alone
daemon  lockstepd lists the GPU, gives it to a job, and the job ends well
"""
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LOCKSTEP = os.environ.get("LOCKSTEP", os.path.join(HERE, "bin", "lockstep"))
DATA = os.environ.get("LOCKSTEP_DATA", os.path.join(HERE, "data"))
KIND = os.environ.get("LOCKSTEP_KIND", "gpu")

JOB = """name: {name}
model: {model}
data: {{train: {data}:/train, validation: {data}:/test}}
batch_size: 64
shards: 8
devices: {{kind: {kind}, oversubscribe: true}}
epochs: {epochs}
optimizer: {{sgd: {{learning_rate: {rate}, momentum: 0.9, weight_decay: 5e-4}}}}
augment: [{{horizontal_flip: {{}}}}]
checkpoint: {{every: 10 steps}}
precision: {precision}
"""


def write_job(folder, name, model, data, precision, epochs=4, rate=0.02):
    path = os.path.join(folder, name + ".yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(JOB.format(name=name, model=model, data=os.path.join(DATA, data), kind=KIND, epochs=epochs, rate=rate,
                              precision=precision))
    return path


def line_of(text, beginning):
    found = [line[len(beginning):].strip() for line in text.splitlines() if line.startswith(beginning)]
    if not found:
        raise AssertionError(f"no line begins with '{beginning}' in:\n{text}")
    return found[-1]


def train(path, output, devices):
    result = subprocess.run([LOCKSTEP, "train", path, "-O", output, "-d", str(devices), "--quiet"], capture_output=True,
                            text=True)
    if result.returncode:
        raise AssertionError(f"{os.path.basename(path)} on {devices}: exit code {result.returncode}: {result.stderr.strip()}")
    return line_of(result.stdout, "parameters sha256:"), float(line_of(result.stdout, "test accuracy:").rstrip(" %"))


def stop_and_resume(path, output):
    """On two workers until there is a checkpoint, the rest on four."""
    process = subprocess.Popen([LOCKSTEP, "train", path, "-O", output, "-d", "2", "--quiet"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    checkpoints = os.path.join(output, "checkpoints")
    while process.poll() is None and not (os.path.isdir(checkpoints) and os.listdir(checkpoints)):
        time.sleep(0.005)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    if process.returncode not in (0, 75):
        raise AssertionError(f"stopping: exit code {process.returncode}: {error.strip()}")
    return train(path, output, 4)[0], process.returncode == 75


def check_exact(folder, model, data, precision):
    name = f"{model}-{precision}"
    path = write_job(folder, name, model, data, precision, rate=0.05 if model == "resnet20" else 0.02)
    found = {}
    for number, devices in enumerate((1, 1, 2, 4, 8)):
        begin = time.monotonic()
        digest, accuracy = train(path, os.path.join(folder, f"{name}-{number}"), devices)
        found[f"{devices} workers, run {number}"] = digest
        print(f"  {name} on {devices}: {digest[:16]}, test accuracy {accuracy:.2f} %, {time.monotonic() - begin:.1f} s",
              flush=True)
    digest, stopped = stop_and_resume(path, os.path.join(folder, f"{name}-parts"))
    found["stopped and resumed" if stopped else "not stopped in time"] = digest
    if not stopped:  # it ended before: a longer one, on one worker and in two parts
        path = write_job(folder, name, model, data, precision, epochs=40, rate=0.05 if model == "resnet20" else 0.02)
        whole = train(path, os.path.join(folder, f"{name}-long"), 1)[0]
        digest, stopped = stop_and_resume(path, os.path.join(folder, f"{name}-long-parts"))
        if not stopped:
            raise AssertionError(f"{name}: 40 epochs ended before they could be stopped")
        if digest != whole:
            raise AssertionError(f"{name}: stopped and resumed {digest}, in one run {whole}")
    if len(set(found.values())) != 1:
        raise AssertionError(f"{name}: the digests differ: {found}")
    if accuracy < 90:
        raise AssertionError(f"{name}: test accuracy {accuracy:.2f} %, expected 90 % at least")
    print(f"ok {name}: one digest in {len(found)} runs",
          flush=True)


MODELS = {"lenet-caffe": "grey.h5", "resnet20": "colour.h5"}
PRECISIONS = ("float32", "tf32", "bfloat16", "float16") if KIND == "gpu" else ("float32",)


def exact(folder, model=None, precision=None):
    models, precisions = [model] if model else list(MODELS), [precision] if precision else PRECISIONS
    if not set(models) <= set(MODELS) or not set(precisions) <= set(PRECISIONS):
        sys.exit(f"train.py: MODEL is one of {', '.join(MODELS)}, PRECISION one of {', '.join(PRECISIONS)}")
    failed = 0
    for model in models:
        for precision in precisions:
            try:
                check_exact(folder, model, MODELS[model], precision)
            except AssertionError as error:
                failed += 1
                print(f"FAILED {model}-{precision}: {error}", flush=True)
    return failed


def ask(environment, *arguments):
    result = subprocess.run([LOCKSTEP, *arguments], capture_output=True, text=True, env=environment, timeout=300)
    return result.returncode, result.stdout + result.stderr


def daemon(folder):
    socket = os.path.join(folder, "d.sock")
    environment = {**os.environ, "LOCKSTEP_ADDRESS": "unix:" + socket}
    program = os.path.join(os.path.dirname(LOCKSTEP), "lockstepd")
    process = subprocess.Popen([program, "--state", os.path.join(folder, "state"), "--socket", socket, "--http", "127.0.0.1:0"],
                               env=environment)
    try:
        end = time.monotonic() + 60
        while ask(environment, "devices")[0] != 0:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError("lockstepd does not answer")
            time.sleep(0.1)
        devices = ask(environment, "devices")[1]
        print(devices, end="")
        if not any(line.startswith(f"{KIND}0 ") for line in devices.splitlines()):
            raise AssertionError(f"lockstepd lists no {KIND}0")
        path = write_job(folder, "daemon", "lenet-caffe", "grey.h5", "float32")
        code, text = ask(environment, "submit", path, "--watch")
        print(text, end="")
        if code != 0:
            raise AssertionError(f"the job ended with exit code {code}")
        print("ok daemon")
        return 0
    except AssertionError as error:
        print(f"FAILED daemon: {error}")
        return 1
    finally:
        process.terminate()
        process.wait()


def main():
    most = {"exact": 5, "daemon": 3}.get(sys.argv[1] if len(sys.argv) > 1 else "", 0)
    if not 3 <= len(sys.argv) <= most:
        sys.exit(__doc__)
    sys.exit(1 if {"exact": exact, "daemon": daemon}[sys.argv[1]](*sys.argv[2:]) else 0)


if __name__ == "__main__":
    main()
