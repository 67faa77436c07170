#!/usr/bin/python3
"""Ours and PyTorch in turn, pair by pair: the work of tests/bench/cpu.sh (which see)."""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# network, batch, steps a measurement, inference, least ratio that is asked for
CASES = [
    ("lenet-caffe", 256, 30, False, 1.5),
    ("resnet20", 256, 6, False, 1.25),
    ("alexnet-torchvision", 32, 4, False, 1.2),
    ("resnet18", 16, 4, False, 1.15),
    ("vgg16", 4, 3, False, 1.15),
    ("resnet18", 1, 20, True, 1.2),
    ("resnet18", 16, 4, True, 1.2),
]


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {result.returncode}: {result.stderr.strip()[-400:]}")
    return json.loads(result.stdout)


def ours(args, network, batch, steps, inference):
    command = [args.lockstep, "bench", network, "--batch", str(batch), "--steps", str(steps), "--devices",
               str(min(args.threads, batch)), "-o", "json"]
    if args.shards and batch % args.shards == 0 and batch >= args.shards and not inference:
        command += ["--shards", str(args.shards)]
    return run(command + (["--inference"] if inference else []))


def torch(args, network, batch, steps, inference, layout):
    return run(["/usr/bin/python3", os.path.join(HERE, "torch_bench.py"), network, "--batch", str(batch), "--steps",
                str(steps), "--threads", str(args.threads), "--format", layout]
               + (["--inference"] if inference else []))


def check_bits(args, network, batch, steps, expected):
    """The run that was measured, on one worker: its parameters must have the same SHA-256."""
    alone = run([args.lockstep, "bench", network, "--batch", str(batch), "--steps", str(steps), "--devices", "1",
                 "--shards", str(expected["shards"]), "-o", "json"])
    if alone["parameters_sha256"] != expected["parameters_sha256"]:
        raise RuntimeError(f"other bits on one worker than on {expected['workers']}: {alone['parameters_sha256']} "
                           f"and {expected['parameters_sha256']}")


def compare(args, case):
    network, batch, steps, inference, bar = case
    steps = max(1, round(steps * args.scale))
    # The faster of PyTorch's two formats is the peer, chosen by one run of each.
    tried = {layout: torch(args, network, batch, steps, inference, layout) for layout in ("nchw", "channels_last")}
    layout = max(tried, key=lambda name: tried[name]["images_per_s"])
    pairs = []
    for pair in range(args.pairs):
        first = ours(args, network, batch, steps, inference) if pair % 2 == 0 else None
        peer = torch(args, network, batch, steps, inference, layout)
        own = first or ours(args, network, batch, steps, inference)
        pairs.append((own, peer))
    if not inference:
        check_bits(args, network, batch, steps, pairs[0][0])
    ratios = [own["images_per_s"] / peer["images_per_s"] for own, peer in pairs]
    row = {
        "network": network + (" inference" if inference else ""),
        "batch": batch,
        "ours": statistics.median(own["images_per_s"] for own, _ in pairs),
        "torch": statistics.median(peer["images_per_s"] for _, peer in pairs),
        "format": layout,
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "rss": statistics.median(own["peak_rss_bytes"] / peer["peak_rss_bytes"] for own, peer in pairs),
        "wait": max(own.get("input_wait") or 0 for own, _ in pairs),
        "bar": bar,
        "version": pairs[0][1]["version"],
    }
    print(f"{row['network']:<24} {batch:>5}  {row['ours']:>9.1f}  {row['torch']:>9.1f}  {layout:<13}  "
          f"{row['ratio']:>5.2f}x ({row['lowest']:.2f}-{row['highest']:.2f})  {row['rss']:>5.2f}x  "
          f"{100 * row['wait']:>5.2f} %  bar {bar:.2f}x {'met' if row['ratio'] >= bar else 'missed'}", flush=True)
    return row


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def write_results(args, rows):
    path = os.path.join(HERE, "RESULTS.md")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    new = not os.path.exists(path)
    with open(path, "a", encoding="utf-8") as file:
        if new:
            file.write("# Measurements\n\nRatios are pairwise: ours and the peer in turn in one run, median over the pairs "
                       "(lowest and highest beside it).\n")
        file.write(f"\n## {datetime.date.today()}: {processor()}, {os.cpu_count()} cores, {platform.system()} "
                   f"{platform.release().split('-')[0]}, commit {commit}\n\n"
                   f"`tests/bench/cpu.sh {' '.join(sys.argv[1:])}`; PyTorch {rows[0]['version']}, {args.threads} threads.\n\n"
                   "| network | batch | images/s | PyTorch images/s (format) | ratio | peak RSS, ours / PyTorch | "
                   "input wait |\n|---|---|---|---|---|---|---|\n")
        for r in rows:
            file.write(f"| {r['network']} | {r['batch']} | {r['ours']:.1f} | {r['torch']:.1f} ({r['format']}) | "
                       f"**{r['ratio']:.2f}** ({r['lowest']:.2f}–{r['highest']:.2f}) | {r['rss']:.2f} | "
                       f"{100 * r['wait']:.2f} % |\n")


def main():
    parser = argparse.ArgumentParser(prog="cpu.sh", description="Lockstep and PyTorch in turn on the same networks.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="devices of ours, threads of PyTorch")
    parser.add_argument("--shards", type=int, default=0, help="ours; 0: as many as devices")
    parser.add_argument("--only", action="append", help="NETWORK, or NETWORK:BATCH; may be repeated")
    parser.add_argument("--scale", type=float, default=1, help="factor on the number of steps a measurement")
    parser.add_argument("--record", action="store_true", help="append a table to tests/bench/RESULTS.md")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a bar is missed")
    parser.add_argument("--lockstep", default=os.path.join(ROOT, "build", "bin", "lockstep"))
    args = parser.parse_args()
    wanted = [c for c in CASES if not args.only or c[0] in args.only or f"{c[0]}:{c[1]}" in args.only]
    if not wanted:
        parser.error(f"no such network (known: {', '.join(sorted({c[0] for c in CASES}))})")
    print(f"{'network':<24} {'batch':>5}  {'images/s':>9}  {'PyTorch':>9}  {'its format':<13}  {'ratio (range)':<19}  "
          f"{'RSS':>6}  {'wait':>7}")
    rows, failed = [], False
    for case in wanted:
        try:
            rows.append(compare(args, case))
        except (RuntimeError, ValueError, KeyError) as error:
            failed = True
            print(f"{case[0]:<24} {case[1]:>5}  could not be measured: {error}", flush=True)
    if args.record and rows:
        write_results(args, rows)
    missed = [r for r in rows if r["ratio"] < r["bar"]]
    sys.exit(1 if failed or (args.check and missed) else 0)


if __name__ == "__main__":
    main()
