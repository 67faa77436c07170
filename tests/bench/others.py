#!/usr/bin/python3
"""Two more comparisons, each in turn and pair by pair as in compare.py:

  workers   ResNet-20, batch 256 in 8 shards: 8 worker threads on this machine's cores against one a core
  darknet   the network of darknet's cfg/cifar.cfg: ours against Debian's darknet, which trains it on one core's plain
            loops; it reads and augments small PNG files, from memory after the first batch

usage: tests/bench/others.py [--pairs N] [--only workers|darknet] [--record]
"""
import argparse
import datetime
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile

from compare import HERE, ROOT, processor, run

LOCKSTEP = os.path.join(ROOT, "build", "bin", "lockstep")
DARKNET_BATCH = 8


def bench(network, batch, steps, devices, shards):
    return run([LOCKSTEP, "bench", network, "--batch", str(batch), "--steps", str(steps), "--devices", str(devices),
                "--shards", str(shards), "-o", "json"])


def workers(_):
    cores = len(os.sched_getaffinity(0))
    return (bench("resnet20", 256, 6, 8, 8)["images_per_s"], bench("resnet20", 256, 6, min(cores, 8), 8)["images_per_s"])


def prepare_darknet(folder):
    import numpy
    from PIL import Image
    random = numpy.random.default_rng(1)
    with open(os.path.join(folder, "train.list"), "w", encoding="utf-8") as paths:
        for i in range(64):
            path = os.path.join(folder, f"{i}_class{i % 10}.png")
            Image.fromarray(random.integers(0, 256, (32, 32, 3)).astype("uint8")).save(path)
            paths.write(path + "\n")
    with open(os.path.join(folder, "labels.txt"), "w", encoding="utf-8") as labels:
        labels.write("".join(f"class{i}\n" for i in range(10)))
    with open("/usr/share/darknet/cfg/cifar.cfg", encoding="utf-8") as source, \
            open(os.path.join(folder, "cifar.cfg"), "w", encoding="utf-8") as copy:
        copy.write(re.sub(r"batch=\d+", f"batch={DARKNET_BATCH}", source.read(), count=1))
    os.mkdir(os.path.join(folder, "backup"))
    with open(os.path.join(folder, "cifar.data"), "w", encoding="utf-8") as data:
        data.write(f"classes=10\ntrain={folder}/train.list\nvalid={folder}/train.list\nlabels={folder}/labels.txt\n"
                   f"backup={folder}/backup\ntop=1\n")


def darknet_rate(folder):
    """Images a second of the second batch."""
    process = subprocess.Popen(["stdbuf", "-oL", "darknet", "classifier", "train", "cifar.data", "cifar.cfg"], cwd=folder,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds = []
    for line in process.stdout:
        found = re.search(r"rate, ([0-9.]+) seconds, \d+ images", line)
        if found:
            seconds.append(float(found.group(1)))
        if len(seconds) == 2:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    if len(seconds) < 2:
        raise RuntimeError("darknet trained no two batches")
    return DARKNET_BATCH / seconds[1]


def darknet(folder):
    return bench("darknet-cifar", DARKNET_BATCH, 6, 2, 2)["images_per_s"], darknet_rate(folder)


CASES = {"workers": (workers, 0.9, "8 workers", "one a core"), "darknet": (darknet, 10, "Lockstep", "darknet")}


def main():
    parser = argparse.ArgumentParser(prog="others.py")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=sorted(CASES))
    parser.add_argument("--record", action="store_true", help="append a table to tests/bench/RESULTS.md")
    args = parser.parse_args()
    lines = []
    for name in [args.only] if args.only else CASES:
        measure, bar, first, second = CASES[name]
        with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
            if name == "darknet":
                prepare_darknet(folder)
            pairs = [measure(folder) for _ in range(args.pairs)]
        ratios = [a / b for a, b in pairs]
        ratio = statistics.median(ratios)
        values = [statistics.median(p[i] for p in pairs) for i in (0, 1)]
        print(f"{name}: {first} {values[0]:.1f} images/s, {second} {values[1]:.2f} images/s, ratio {ratio:.2f}x "
              f"({min(ratios):.2f}-{max(ratios):.2f}), bar {bar}x {'met' if ratio >= bar else 'missed'}", flush=True)
        lines.append(f"| {name}: {first} against {second} | {values[0]:.1f} | {values[1]:.2f} | **{ratio:.2f}** "
                     f"({min(ratios):.2f}–{max(ratios):.2f}) |\n")
    if args.record:
        with open(os.path.join(HERE, "RESULTS.md"), "a", encoding="utf-8") as file:
            file.write(f"\n## {datetime.date.today()}: {processor()}, {os.cpu_count()} cores\n\n"
                       f"`tests/bench/others.py {' '.join(sys.argv[1:])}`\n\n| what | images/s | peer images/s | ratio |\n"
                       "|---|---|---|---|\n" + "".join(lines))


if __name__ == "__main__":
    main()
