"""Throughput of `lockstep data bench` beside h5py + PyTorch's DataLoader. See data.sh."""
import argparse
import ctypes
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import numpy
import torch
from PIL import Image

from compare import processor

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LOCKSTEP = os.path.join(os.environ.get("LS_BUILD", os.path.join(ROOT, "build")), "bin", "lockstep")
SIDE, CROP, BATCH = 256, 224, 256


def make_file(path, count):
    """Smooth images with some noise: what JPEG sees in photographs, more or less."""
    random = numpy.random.default_rng(1)
    y, x = numpy.mgrid[0:SIDE, 0:SIDE]
    with h5py.File(path, "w") as file:
        images = file.create_dataset("train/images", (count, SIDE, SIDE, 3), "u1")
        for i in range(count):
            waves = [numpy.sin(x * random.uniform(0, .1) + y * random.uniform(0, .1) + random.uniform(0, 6)) for _ in range(3)]
            image = 128 + 80 * numpy.stack(waves, 2) + random.normal(0, 6, (SIDE, SIDE, 1))
            images[i] = numpy.clip(image, 0, 255).astype(numpy.uint8)
        file["train/labels"] = (numpy.arange(count) % 1000).astype(numpy.int64)


class Images(torch.utils.data.Dataset):
    """As people write it: h5py opened in the worker, a random crop and flip in NumPy."""

    def __init__(self, path, as_float):
        self.path, self.as_float, self.file = path, as_float, None
        with h5py.File(path) as file:
            self.count = len(file["train/labels"])

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if self.file is None:
            self.file = h5py.File(self.path)
            self.images, self.labels = self.file["train/images"], self.file["train/labels"][:]
        top, left, flip = torch.randint(0, SIDE - CROP + 1, ()), torch.randint(0, SIDE - CROP + 1, ()), torch.rand(()) < .5
        image = self.images[i, int(top):int(top) + CROP, int(left):int(left) + CROP]
        if flip:
            image = image[:, ::-1]
        image = torch.from_numpy(numpy.ascontiguousarray(image))
        if self.as_float:
            image = (image.permute(2, 0, 1).to(torch.float32) - 127.5) / 60.0
        return image, int(self.labels[i])


def peer(path, as_float, workers, seconds):
    loader = torch.utils.data.DataLoader(Images(path, as_float), BATCH, shuffle=True, num_workers=workers,
                                         drop_last=True, persistent_workers=True)
    count, start = -4, None  # the first batches are the workers' start
    while True:
        for images, _ in loader:
            count += 1
            if count == 0:
                start = time.perf_counter()
            if count > 0 and time.perf_counter() - start > seconds:
                return count * len(images) / (time.perf_counter() - start)


def ours(path, *options, seconds, crop=CROP):
    run = subprocess.run([LOCKSTEP, "data", "bench", path, "--crop", str(crop), "--flip", "--batch", str(BATCH),
                          "--seconds", str(seconds), "-o", "json", *options], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


class Jpeg:
    """libjpeg-turbo alone, by its own small interface: whole images to RGB, one thread."""

    def __init__(self):
        self.library = ctypes.CDLL("libturbojpeg.so.0")
        self.library.tjInitDecompress.restype = ctypes.c_void_p
        self.library.tjDecompress2.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p] + \
            [ctypes.c_int] * 5
        self.handle = self.library.tjInitDecompress()
        self.out = ctypes.create_string_buffer(SIDE * SIDE * 3)

    def rate(self, files, seconds):
        count, start = 0, time.process_time()
        while time.process_time() - start < seconds:
            data = files[count % len(files)]
            if self.library.tjDecompress2(self.handle, data, len(data), self.out, SIDE, 0, SIDE, 0, 0):
                raise RuntimeError("libturbojpeg cannot decode the test's own image")
            count += 1
        return count / (time.process_time() - start)


def make_jpegs(folder, path, count):
    """The first images of the file as JPEG (quality 90), in one folder a class."""
    with h5py.File(path) as file:
        for i in range(count):
            os.makedirs(f"{folder}/{i % 10}", exist_ok=True)
            Image.fromarray(file["train/images"][i]).save(f"{folder}/{i % 10}/{i:05}.jpg", quality=90)
    return [open(f"{folder}/{i % 10}/{i:05}.jpg", "rb").read() for i in range(count)]


def fio(path, seconds, size):
    if not shutil.which("fio"):
        return None
    run = subprocess.run(["fio", "--name=read", f"--filename={path}", "--rw=randread", f"--bs={size}", "--direct=1",
                          "--ioengine=io_uring", "--iodepth=32", f"--runtime={seconds}", "--time_based", "--readonly",
                          "--output-format=json"], capture_output=True, text=True, check=False)
    return json.loads(run.stdout)["jobs"][0]["read"]["bw_bytes"] if run.returncode == 0 else None


class PlainRead:
    """The machine's own pread and row copies (plain_read.c), one thread."""

    def __init__(self, folder, path, images):
        self.program, self.path, self.images = os.path.join(folder, "plain_read"), path, images
        subprocess.run(["cc", "-O2", "-o", self.program, os.path.join(HERE, "plain_read.c")], check=True)
        with h5py.File(path) as file:
            self.offset = file["train/images"].id.get_offset()

    def rate(self, seconds):
        return float(subprocess.run([self.program, self.path, str(self.offset), str(self.images), str(seconds)],
                                    capture_output=True, text=True, check=True).stdout)


def cases(folder, options):
    """(what, ours, its peer, bar), the two as functions that measure once; a rate each."""
    path, seconds, cores = os.path.join(folder, "images.h5"), options.seconds, min(2, len(os.sched_getaffinity(0)))
    make_file(path, options.images)
    where, plain, alone = path + ":/train", PlainRead(folder, path, options.images), Jpeg()
    encoded = os.path.join(folder, "encoded.h5")
    files = make_jpegs(os.path.join(folder, "jpeg"), path, min(options.images, 1024))
    subprocess.run([LOCKSTEP, "data", "import", os.path.join(folder, "jpeg"), encoded, "--encoded"], check=True,
                   stdout=subprocess.DEVNULL)

    def rate(readers, *arguments):
        return lambda: ours(where, "--readers", str(readers), *arguments, seconds=seconds)["images_per_s"]

    def decode(crop):
        return lambda: 1000 / ours(encoded + ":/train", "--readers", "1", seconds=seconds,
                                   crop=crop)["cpu_s_per_1000_images"]

    block = SIDE * SIDE * 3 // 4096 * 4096
    yield "uint8, one reader against plain pread and row copies", rate(1), lambda: plain.rate(seconds), None
    yield f"uint8, {cores} readers against one", rate(cores), rate(1), 1.7
    yield (f"uint8, {cores} readers against h5py + DataLoader, {cores} workers", rate(cores),
           lambda: peer(path, False, cores, seconds), 5)
    yield "float32, one reader against one reader of uint8", rate(1, "--float32"), rate(1), None
    yield (f"float32, {cores} readers against h5py + DataLoader, {cores} workers", rate(cores, "--float32"),
           lambda: peer(path, True, cores, seconds), 5)
    if shutil.which("fio"):
        yield ("past the page cache, MB/s, against fio", lambda: ours(where, "--readers", "2", "--direct",
               seconds=seconds)["bytes_per_s"] / 1e6, lambda: fio(path, seconds, block) / 1e6, 0.85)
    yield "JPEG, whole images a CPU second, against libjpeg-turbo", decode(SIDE), lambda: alone.rate(files, seconds), 0.9
    yield f"JPEG, crops of {CROP}, against whole images of libjpeg-turbo", decode(CROP), \
        lambda: alone.rate(files, seconds), None


def main():
    parser = argparse.ArgumentParser(prog="data.sh", description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--record", action="store_true", help="append a table to tests/bench/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
        for what, measure, beside, bar in cases(folder, options):
            pairs = [(measure(), beside()) for _ in range(options.pairs)]
            ratios = [a / b for a, b in pairs]
            ratio, values = statistics.median(ratios), [statistics.median(p[i] for p in pairs) for i in (0, 1)]
            verdict = "" if bar is None else f", bar {bar} {'met' if ratio >= bar else 'missed'}"
            print(f"{what}: {values[0]:,.0f} against {values[1]:,.0f}, ratio {ratio:.2f} "
                  f"({min(ratios):.2f}-{max(ratios):.2f}){verdict}", flush=True)
            lines.append(f"| {what} | {values[0]:,.0f} | {values[1]:,.0f} | **{ratio:.2f}** ({min(ratios):.2f}–"
                         f"{max(ratios):.2f}) |\n")
    if options.record:
        with open(os.path.join(HERE, "RESULTS.md"), "a", encoding="utf-8") as file:
            file.write(f"\n## {datetime.date.today()}: {processor()}, {os.cpu_count()} cores: the loader\n\n"
                       f"`tests/bench/data.sh {' '.join(sys.argv[1:])}`: {SIDE}x{SIDE}x3, random crop {CROP}, flip, page "
                       "cache, images/s unless said otherwise.\n\n| what | ours | beside it | ratio |\n|---|---|---|---|\n"
                       + "".join(lines))


if __name__ == "__main__":
    main()
