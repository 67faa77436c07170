#!/usr/bin/env python3
"""Ours and PyTorch in turn on one GPU: the work of tests/bench/gpu.sh (which see).

For each case the better of the two 16-bit types of each side is chosen by one run, and for PyTorch the best of
torch.compile's modes; then pairs of measurements follow in turn, both processes on the same GPU. PyTorch's stays between
its measurements, so that it compiles once; its images lie on the GPU, ours travel there in every step.

A case takes minutes, most of them torch.compile's, which runs for each of PyTorch's ways: where time is short, one --only a
call, and --precisions bfloat16 --modes default --pairs 3.
"""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# network, batch, bar, stretch (both: images/s of ours over PyTorch's), images/s to stretch for (0: none)
CASES = [
    ("resnet50", 256, 1.0, 1.3, 7000),
    ("resnet50", 32, 1.2, None, 4500),
    ("vgg16", 256, 1.0, None, 0),
    ("alexnet-torchvision", 256, 1.0, None, 0),
    ("resnet20", 256, 2.0, 4.0, 0),
]
MEMORY_BAR, MEMORY_STRETCH = 0.8, 0.6  # ours over PyTorch's max_memory_allocated
# Ours beside itself: name, what is over what, bar, stretch
OWN = [
    ("exact", "exact against fast", 0.90, 0.97),
    ("input", "real HDF5 input against synthetic", 0.97, 0.99),
]
HALF = ("bfloat16", "float16")


def default_program():
    beside = os.path.join(HERE, "..", "bin", "lockstep")  # in a packed folder
    tree = os.path.join(HERE, "..", "..", "build", "bin", "lockstep")
    return os.environ.get("LOCKSTEP") or os.path.normpath(beside if os.path.exists(beside) else tree)


class Failed(Exception):
    pass


def ours(args, network, batch, steps, precision, *more):
    command = [args.lockstep, "bench", network, "--batch", str(batch), "--steps", str(steps), "--devices", "1", "--shards",
               "1", "--kind", args.kind, "--precision", precision, "-o", "json", *more]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Failed(f"{' '.join(command)}: exit code {result.returncode}: {result.stderr.strip()[-400:]}")
    return json.loads(result.stdout)


class Peer:
    """A PyTorch process that measures when asked to."""

    def __init__(self, args, network, batch, precision, mode):
        self.name = f"{precision}, {mode}"
        self.log = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would stop the process when it is full
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "torch_gpu.py"), network, "--batch", str(batch), "--precision", precision,
             "--mode", mode, "--device", "cuda" if args.kind == "gpu" else "cpu"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.about = self.answer()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print there, too
                return json.loads(line)
        self.process.wait()
        self.log.seek(0)
        raise Failed(f"PyTorch ({self.name}): {self.log.read().strip()[-400:]}")

    def measure(self, steps):
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: answer() says why
        return self.answer()

    def end(self):
        self.process.kill()
        self.process.communicate()
        self.log.close()


def steps_for(args, images_per_s, batch):
    return max(5, round(args.seconds * images_per_s / batch))


def best_peer(args, network, batch):
    """The fastest of PyTorch's ways; those that do not run here are named."""
    best, best_rate = None, 0
    for precision in args.precisions:
        for mode in args.modes:
            peer = None
            try:
                peer = Peer(args, network, batch, precision, mode)
                rate = peer.measure(steps_for(args, peer.measure(5)["images_per_s"], batch))["images_per_s"]
            except Failed as error:
                print(f"  {network} {batch}: {error}", file=sys.stderr, flush=True)
                if peer:
                    peer.end()
                continue
            if rate > best_rate:
                best, peer, best_rate = peer, best, rate
            if peer:
                peer.end()
    if not best:
        raise Failed("PyTorch runs in none of its ways")
    return best


def best_of_ours(args, network, batch):
    tried = {}
    for precision in args.precisions:
        short = ours(args, network, batch, 10, precision)["images_per_s"]  # chooses kernels, too
        tried[precision] = ours(args, network, batch, steps_for(args, short, batch), precision)["images_per_s"]
    return max(tried, key=tried.get), max(tried.values())


def compare(args, case):
    network, batch, bar, stretch, rate = case
    precision, expected = best_of_ours(args, network, batch)
    peer = best_peer(args, network, batch)
    pairs = []
    try:
        for pair in range(args.pairs):
            steps = steps_for(args, expected, batch)
            first = ours(args, network, batch, steps, precision) if pair % 2 == 0 else None
            other = peer.measure(steps)
            pairs.append((first or ours(args, network, batch, steps, precision), other))
            rates = [measured["images_per_s"] for measured in pairs[-1]]
            print(f"  {network} {batch}, pair {pair + 1}: {rates[0]:.1f} and {rates[1]:.1f} images/s", file=sys.stderr,
                  flush=True)
    finally:
        peer.end()
    ratios = [own["images_per_s"] / other["images_per_s"] for own, other in pairs]
    memory = [own["device_memory_bytes"] / other["device_memory_bytes"] for own, other in pairs
              if other["device_memory_bytes"]]
    return {"network": network, "batch": batch, "bar": bar, "stretch": stretch, "rate": rate, "precision": precision,
            "peer": peer.name, "ours": statistics.median(own["images_per_s"] for own, _ in pairs),
            "torch": statistics.median(other["images_per_s"] for _, other in pairs), "ratio": statistics.median(ratios),
            "lowest": min(ratios), "highest": max(ratios), "memory": statistics.median(memory) if memory else None,
            "own_memory": pairs[0][0]["device_memory_bytes"], "device": pairs[0][0]["device"], "about": peer.about}


JOB = """name: input
model: {network}
data: {{train: {data}:/train}}
batch_size: {batch}
shards: 1
devices: {{count: 1, kind: {kind}}}
steps: {steps}
precision: {precision}
optimizer: {{sgd: {{learning_rate: 0.0001, momentum: 0.9, weight_decay: 5e-4}}}}
augment: [{{horizontal_flip: {{}}}}]
checkpoint: {{every: never}}
evaluation: {{every: never}}
"""


def make_images(path, count, side):
    try:
        import h5py
        import numpy
    except ImportError as error:
        raise Failed(f"no data set can be made here: {error}") from error
    random = numpy.random.default_rng(1)
    with h5py.File(path, "w") as file:
        images = file.create_dataset("train/images", (count, side, side, 3), numpy.uint8)
        for first in range(0, count, 64):
            images[first:first + 64] = random.integers(0, 256, (min(64, count - first), side, side, 3), numpy.uint8)
        file["train/labels"] = random.integers(0, 10, count)


def train_rate(args, job, output):
    """Images a second over the middle of the run: the median of its reports."""
    result = subprocess.run([args.lockstep, "train", job, "-O", output, "--fresh"], capture_output=True, text=True)
    rates = [float(found.replace(",", "")) for found in re.findall(r"([\d,.]+) images/s", result.stdout + result.stderr)]
    if result.returncode or len(rates) < 3:
        raise Failed(f"lockstep train: exit code {result.returncode}, {len(rates)} reports: {result.stderr.strip()[-400:]}")
    return statistics.median(rates[1:-1])


def compare_input(args, network, batch, precision, expected, pairs):
    """Training from a file in the page cache beside the same without."""
    with tempfile.TemporaryDirectory() as folder:
        data, job = os.path.join(folder, "images.h5"), os.path.join(folder, "job.yaml")
        make_images(data, 8 * batch, 32 if network == "resnet20" else 224)
        steps = max(5, round(8 * expected / batch))  # reports come once a second
        with open(job, "w", encoding="utf-8") as file:
            file.write(JOB.format(network=network, data=data, batch=batch, kind=args.kind, steps=steps, precision=precision))
        for _ in range(pairs):
            real = train_rate(args, job, os.path.join(folder, "run"))
            yield real, ours(args, network, batch, steps_for(args, expected, batch), precision)["images_per_s"]


def compare_exact(args, network, batch, precision, expected, pairs):
    steps = steps_for(args, expected, batch)
    for _ in range(pairs):
        exact = ours(args, network, batch, steps, precision)["images_per_s"]
        yield exact, ours(args, network, batch, steps, precision, "--fast")["images_per_s"]


def compare_own(args, case):
    name, what, bar, stretch = case
    network, batch = ("resnet50", 256) if args.kind == "gpu" else ("resnet20", 64)
    precision, expected = best_of_ours(args, network, batch)
    compare_these = {"exact": compare_exact, "input": compare_input}[name]
    pairs = list(compare_these(args, network, batch, precision, expected, args.pairs))
    ratios = [own / other for own, other in pairs]
    device = ours(args, network, batch, 5, precision)["device"]
    return {"network": f"{network}: {what}", "batch": batch, "bar": bar, "stretch": stretch, "rate": 0,
            "precision": precision, "peer": "itself", "ours": statistics.median(own for own, _ in pairs),
            "torch": statistics.median(other for _, other in pairs), "ratio": statistics.median(ratios),
            "lowest": min(ratios), "highest": max(ratios), "memory": None, "own_memory": 0, "device": device,
            "about": {"version": "none", "cudnn": "none"}}


def verdict(row):
    if row["ratio"] < row["bar"]:
        return "missed"
    reached = row["stretch"] and row["ratio"] >= row["stretch"] or row["rate"] and row["ours"] >= row["rate"]
    return "met, stretch reached" if reached else "met"


def text_of(row):
    memory = f"{row['memory']:.2f}x" if row["memory"] else "-"
    return (f"{row['network']:<20} {row['batch']:>5}  {row['ours']:>9.1f} ({row['precision']})  {row['torch']:>9.1f} "
            f"({row['peer']})  {row['ratio']:>5.2f}x ({row['lowest']:.2f}-{row['highest']:.2f})  memory {memory}  "
            f"bar {row['bar']:.2f}x {verdict(row)}")


def driver():
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                               text=True)
        return found.stdout.split("\n")[0].strip() or "unknown"
    except OSError:
        return "unknown"


def commit():
    manifest = os.path.join(HERE, "..", "MANIFEST")
    if os.path.exists(manifest):
        with open(manifest, encoding="utf-8") as file:
            return file.readline().split()[-1][:7]
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def record(args, row, first):
    """Appends a row, the first with a heading, to RESULTS.md beside this file, and to $OUT where that is set. At once: if
    what follows takes too long, what was measured is not lost."""
    lines = []
    if first:
        lines = [f"\n## {datetime.date.today()}: {row['device']}, driver {driver()}, commit {commit()}\n",
                 f"`tests/bench/gpu.sh {' '.join(sys.argv[1:])}`; PyTorch {row['about']['version']}, cuDNN "
                 f"{row['about']['cudnn']}.\n",
                 "| network | batch | images/s | peer's images/s | ratio | device memory, ours / PyTorch | bar |",
                 "|---|---|---|---|---|---|---|"]
    memory = f"{row['memory']:.2f} ({row['own_memory'] / 2**20:.0f} MiB)" if row["memory"] else "-"
    lines.append(f"| {row['network']} | {row['batch']} | {row['ours']:.1f} ({row['precision']}) | {row['torch']:.1f} "
                 f"({row['peer']}) | **{row['ratio']:.2f}** ({row['lowest']:.2f}–{row['highest']:.2f}) | {memory} | "
                 f"{row['bar']:.1f} {verdict(row)} |")
    for folder in {args.results or HERE, os.environ.get("OUT") or args.results or HERE}:
        with open(os.path.join(folder, "RESULTS.md"), "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(prog="gpu.sh", description="Lockstep and PyTorch in turn on one GPU.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="length of one measurement")
    parser.add_argument("--only", action="append", help="NETWORK, NETWORK:BATCH, exact or input; may be repeated")
    parser.add_argument("--precisions", default=",".join(HALF), help="of which the best counts, on each side")
    parser.add_argument("--modes", default="default,reduce-overhead", help="of torch.compile, or eager; the best counts")
    parser.add_argument("--record", action="store_true", help="append a table to RESULTS.md")
    parser.add_argument("--results", help="the folder of RESULTS.md (that of this script)")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a bar is missed")
    parser.add_argument("--kind", choices=("gpu", "cpu"), default=os.environ.get("LOCKSTEP_KIND", "gpu"),
                        help="cpu: to try this script")
    parser.add_argument("--lockstep", default=default_program())
    args = parser.parse_args()
    args.precisions, args.modes = args.precisions.split(","), args.modes.split(",")
    wanted = [c for c in CASES if not args.only or c[0] in args.only or f"{c[0]}:{c[1]}" in args.only]
    wanted += [c for c in OWN if not args.only or c[0] in args.only]
    if not wanted:
        parser.error(f"no such case (known: {', '.join([f'{c[0]}:{c[1]}' for c in CASES] + [c[0] for c in OWN])})")
    rows, failed = [], False
    for case in wanted:
        try:
            rows.append((compare_own if case in OWN else compare)(args, case))
            print(text_of(rows[-1]), flush=True)
            if args.record:
                record(args, rows[-1], len(rows) == 1)
        except (Failed, ValueError, KeyError) as error:
            failed = True
            print(f"{case[0]:<20} {case[1]:>5}  could not be measured: {error}", flush=True)
    memory = [r["memory"] for r in rows if r["memory"]]
    if memory:
        print(f"device memory at most {max(memory):.2f}x PyTorch's: bar {MEMORY_BAR}, stretch {MEMORY_STRETCH}")
    missed = [r for r in rows if r["ratio"] < r["bar"]] or [m for m in memory if m > MEMORY_BAR]
    sys.exit(1 if failed or (args.check and missed) else 0)


if __name__ == "__main__":
    main()
