"""What the tests of the user's path share: the programs, tiny data sets, a private daemon."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.path.join(ROOT, "build")
LOCKSTEP = os.path.join(BUILD, "bin", "lockstep")
LOCKSTEPD = os.path.join(BUILD, "bin", "lockstepd")

JOB = """name: tiny
model: lenet-caffe
data: {train: tiny.h5:/train, validation: tiny.h5:/test}
batch_size: 32
shards: 4
devices: {count: 2, kind: cpu, oversubscribe: true}
epochs: 2
optimizer: {sgd: {learning_rate: 0.02, momentum: 0.9}}
"""


def write_data(path, train=256, test=64, height=28, width=28, channels=1, classes=10, labels=None):
    """A data set that is easy to learn: the class decides where the image is bright."""
    random = numpy.random.default_rng(1)
    with h5py.File(path, "w") as file:
        for name, count in (("train", train), ("test", test)):
            group = file.create_group(name)
            label = numpy.arange(count) % classes if labels is None else numpy.resize(labels, count)
            images = random.integers(0, 40, (count, height, width, channels))
            for i in range(count):
                row = int(label[i]) % classes * height // classes
                images[i, row:row + 3] += 180
            group["images"] = images.astype(numpy.uint8)
            group["labels"] = label.astype(numpy.int64)


class Place:
    """A temporary folder with a job file and its data; removed at the end."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="lockstep-test-")
        self.daemon = None
        self.environment = {**os.environ, "XDG_STATE_HOME": os.path.join(self.folder, "state"), "LC_ALL": "C.UTF-8",
                            "LOCKSTEP_ADDRESS": "unix:" + self.path("d.sock"), "HOME": self.folder, "TERM": "dumb",
                            "LOCKSTEP_NVML": "none"}  # the same on machines with GPUs
        self.environment.pop("XDG_RUNTIME_DIR", None)
        return self

    lockstep = LOCKSTEP

    def __exit__(self, *_):
        self.stop_daemon()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def run(self, *arguments, timeout=120, **options):
        return subprocess.run([LOCKSTEP, *arguments], cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, timeout=timeout, **options)

    def start_daemon(self, *options):
        with open(self.path("daemon.log"), "ab") as log:
            self.daemon = subprocess.Popen([LOCKSTEPD, "--state", self.path("daemon"), "--socket", self.path("d.sock"),
                                            "--http", "127.0.0.1:0", *options], env=self.environment, stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log)
        wait_for(lambda: self.run("devices").returncode == 0 or self.daemon.poll() is not None, "the daemon's answer")
        assert self.daemon.poll() is None, open(self.path("daemon.log"), encoding="utf-8").read()

    def stop_daemon(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        self.daemon = None


def wait_for(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)


def line_of(text, beginning):
    """The rest of the last line that begins so."""
    found = [line[len(beginning):].strip() for line in text.splitlines() if line.startswith(beginning)]
    assert found, f"no line begins with '{beginning}' in:\n{text}"
    return found[-1]


def run_tests(module):
    """Runs every function of the module whose name begins with test_; the first failure ends it."""
    count = 0
    for name, function in list(vars(module).items()):
        if name.startswith("test_") and callable(function):
            begin = time.monotonic()
            function()
            print(f"ok {name} ({time.monotonic() - begin:.1f} s)", flush=True)
            count += 1
    assert count, "no tests"
