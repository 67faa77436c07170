"""Throughput of `lockstep data bench` beside h5py + PyTorch's DataLoader. See data.sh."""
import argparse
import ctypes
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

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
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


def median_of(rounds, *measures):
    """The measures in turn, so that a change of the machine's load meets all of them."""
    results = [[] for _ in measures]
    for _ in range(rounds):
        for result, measure in zip(results, measures):
            result.append(measure())
    return [statistics.median(r) for r in results]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--record", help="write the figures to this file as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores, figures = min(2, len(os.sched_getaffinity(0))), {}
    folder = tempfile.mkdtemp(prefix="lockstep-bench-")
    try:
        path = os.path.join(folder, "images.h5")
        make_file(path, options.images)
        where, seconds = path + ":/train", options.seconds

        def rate(*arguments):
            return lambda: ours(where, *arguments, seconds=seconds)["images_per_s"]

        for name, as_float, flag in (("uint8", False, ()), ("float32", True, ("--float32",))):
            one, many, theirs, cpu = median_of(
                options.rounds, rate("--readers", "1", *flag), rate("--readers", str(cores), *flag),
                lambda a=as_float: peer(path, a, cores, seconds),
                lambda f=flag: ours(where, "--readers", "1", *f, seconds=seconds)["cpu_s_per_1000_images"])
            figures[name] = {"one_reader": one, "per_cpu_s": 1000 / cpu, f"readers_{cores}": many,
                             f"h5py_dataloader_workers_{cores}": theirs, "ratio": many / theirs, "scaling": many / one}
            print(f"{name:8} {one:9,.0f} images/s with one reader ({1000 / cpu:,.0f} per CPU second), {many:9,.0f} with "
                  f"{cores}; h5py + DataLoader {theirs:7,.0f} with {cores} workers: {many / theirs:.1f} times", flush=True)
        result = ours(where, "--readers", "2", "--direct", seconds=seconds)
        disk = fio(path, seconds, int(result["bytes_per_s"] / result["images_per_s"]) // 4096 * 4096)
        figures["direct"] = {"bytes_per_s": result["bytes_per_s"], "fio_bytes_per_s": disk}
        if disk:
            print(f"direct   {result['bytes_per_s'] / 1e6:9,.0f} MB/s past the page cache; fio {disk / 1e6:,.0f} MB/s: "
                  f"{result['bytes_per_s'] / disk:.2f}")
        files = make_jpegs(os.path.join(folder, "jpeg"), path, min(options.images, 1024))
        encoded = os.path.join(folder, "encoded.h5")
        subprocess.run([LOCKSTEP, "data", "import", os.path.join(folder, "jpeg"), encoded, "--encoded"], check=True,
                       stdout=subprocess.DEVNULL)
        alone = Jpeg()
        crop, whole, library = median_of(
            options.rounds,
            lambda: 1000 / ours(encoded + ":/train", "--readers", "1", seconds=seconds)["cpu_s_per_1000_images"],
            lambda: 1000 / ours(encoded + ":/train", "--readers", "1", seconds=seconds, crop=SIDE)["cpu_s_per_1000_images"],
            lambda: alone.rate(files, seconds))
        figures["jpeg"] = {"crop_per_cpu_s": crop, "whole_per_cpu_s": whole, "libjpeg_turbo_per_cpu_s": library,
                           "ratio": whole / library, "crop_ratio": crop / library}
        print(f"JPEG     {whole:9,.0f} whole images, {crop:,.0f} crops of {CROP} per CPU second; libjpeg-turbo alone "
              f"{library:,.0f} whole ones: {whole / library:.2f} and {crop / library:.2f}")
        if options.record:
            with open(options.record, "w", encoding="utf-8") as file:
                json.dump(figures, file, indent=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
