"""lockstepd and GPUs, on any machine: a library in the place of the NVIDIA driver's says what GPUs there are, and a program
in the place of the coordinator says what it was given and how it ends."""
import json
import os
import sqlite3
import sys

from test_daemon import http_port, in_state, request, show, submit  # noqa: F401
from util import BUILD, JOB, Place, run_tests, wait_for, write_data

NVML = os.path.join(BUILD, "tests", "daemon", "fake-nvml.so")
COORDINATOR = os.path.join(BUILD, "tests", "daemon", "fake-coordinator")
GPU_JOB = JOB.replace("devices: {count: 2, kind: cpu, oversubscribe: true}", "devices: {count: 2, kind: gpu}")


class GpuPlace(Place):
    """A place whose daemon sees the GPUs of `lines` (tests/support/fake_nvml.c), with a coordinator that plays `script`."""

    def __init__(self, *lines, script="done", library=NVML, backends="cuda"):
        self.lines, self.script, self.library, self.backends = lines, script, library, backends

    def __enter__(self):
        super().__enter__()
        self.environment.update(LOCKSTEP_NVML=self.library, FAKE_NVML=self.path("gpus"),
                                FAKE_COORDINATOR=self.script, FAKE_BACKENDS=self.backends)
        self.set_gpus(*self.lines)
        write_data(self.path("tiny.h5"))
        return self

    def set_gpus(self, *lines):
        temporary = self.write("gpus.new", "".join(line + "\n" for line in lines))
        os.replace(temporary, self.path("gpus"))

    def start(self, *options):
        self.start_daemon("--worker", COORDINATOR, "--retry-delay", "10", *options)

    def submit(self, text=GPU_JOB, *settings):
        arguments = [part for setting in settings for part in ("--set", setting)]
        return submit(self, self.write("job.yaml", text), *arguments)

    def devices(self):
        devices = json.loads(self.run("devices", "-o", "json").stdout)["devices"]
        return {d["name"]: d for d in devices}

    def healthy(self):
        return sorted(name for name, d in self.devices().items() if name.startswith("gpu") and d.get("healthy"))

    def refused(self, text=GPU_JOB):
        result = self.run("submit", self.write("job.yaml", text))
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result
        return result.stderr


def test_eight():
    with GpuPlace(*["good"] * 8) as place:
        place.start()
        devices = place.devices()
        assert [d for d in devices if d.startswith("gpu")] == [f"gpu{i}" for i in range(8)], devices
        gpu = devices["gpu3"]
        assert gpu["description"] == "Fake H200" and gpu["uuid"] == "GPU-fake-3" and gpu["healthy"], gpu
        assert int(gpu["memory_bytes"]) == 100 << 30 and int(gpu["memory_used_bytes"]) == 4 << 30, gpu
        assert gpu["utilisation"] == 0.53 and gpu["temperature_c"] == 43 and gpu["power_w"] == -1, gpu
        table = place.run("devices").stdout
        line = next(line for line in table.splitlines() if line.startswith("gpu3 "))
        for part in ("free", "100 GiB", "4.0 GiB", "53 %", "43 °C", "Fake H200"):
            assert part in line, table
        job = place.submit()
        in_state(place, job, "succeeded")
        log = place.run("logs", job).stdout
        assert log == "--attempt 1 --devices 2 --kind gpu gpus 'GPU-fake-0,GPU-fake-1'\n", log


def test_held_and_counted():
    with GpuPlace("good", "good", "good", script="wait") as place:
        place.start()
        first = place.submit()
        second = place.submit(GPU_JOB, "devices.count=1")
        third = place.submit()
        in_state(place, first, "starting")
        in_state(place, second, "starting")
        assert "gpus 'GPU-fake-2'" in place.run("logs", second).stdout
        assert show(place, first)["devices"] == ["gpu0", "gpu1"] and show(place, second)["devices"] == ["gpu2"]
        assert show(place, third)["reason"] == "waits for 2 GPUs, 0 are free", show(place, third)
        cpu = place.submit(JOB)  # those that want no GPU do not wait behind those that do
        in_state(place, cpu, "starting")
        assert "--kind cpu gpus ''" in place.run("logs", cpu).stdout
        assert place.devices()["gpu1"]["jobs"] == [first]
        status, metrics = request(place, "/metrics")
        assert status == 200 and 'lockstep_gpu_in_use{gpu="gpu1",uuid="GPU-fake-1"} 1\n' in metrics, metrics
        assert 'lockstep_gpu_temperature_celsius{gpu="gpu2",uuid="GPU-fake-2"} 42\n' in metrics, metrics
        assert "lockstep_gpu_power_watts{" not in metrics, metrics
        assert json.loads(request(place, "/api/v1/devices")[1])["devices"][1]["jobs"] == [first]
        assert "3 of 3 GPUs in use, 3 healthy (Fake H200)" in request(place, "/")[1]
        place.daemon.kill()  # what they hold is known again afterwards
        place.daemon.wait()
        place.start()
        assert show(place, first)["devices"] == ["gpu0", "gpu1"]
        assert place.run("cancel", second).returncode == 0
        in_state(place, second, "cancelled")
        assert show(place, third)["reason"] == "waits for 2 GPUs, 1 is free"
        for job in (first, third, cpu):
            place.run("cancel", job)
            in_state(place, job, "cancelled", "succeeded")


def test_none():
    with GpuPlace() as place:
        place.start()
        assert "key 'devices.kind': gpu was asked for, but this machine has no GPU that can be used: the NVIDIA driver finds " \
               "no GPU; use cpu or auto" in place.refused()
        job = place.submit(GPU_JOB.replace("kind: gpu", "kind: auto, oversubscribe: true"))
        in_state(place, job, "succeeded")
        assert "--kind cpu" in place.run("logs", job).stdout
        status, metrics = request(place, "/metrics")
        assert status == 200 and "lockstep_gpu_healthy{" not in metrics


def test_no_driver():
    with GpuPlace(library="/nowhere/libnvidia-ml.so.1") as place:
        place.start()
        assert "there is no NVIDIA driver (its library libnvidia-ml.so.1 cannot be loaded)" in place.refused()
    for code, says in ((9, "the NVIDIA driver is not loaded"), (18, "are of different versions"),
                       (999, "the NVIDIA driver does not start: Unknown Error")):
        with GpuPlace(f"init {code}") as place:
            place.start()
            assert says in place.refused(), code


def test_driver_that_comes_later():
    with GpuPlace("init 9") as place:
        place.start("--gpus", "2")
        assert request(place, "/readyz")[0] == 503
        place.set_gpus("good", "good")
        wait_for(lambda: request(place, "/readyz")[0] == 200, "readiness")
        assert place.healthy() == ["gpu0", "gpu1"]
        in_state(place, place.submit(), "succeeded")


def test_coordinator_without_cuda():
    with GpuPlace("good", backends="no cuda: it was built without cuDNN 9") as place:
        place.start()
        assert "but the coordinator cannot use GPUs: it was built without cuDNN 9; use cpu or auto" in place.refused()


def test_too_many():
    with GpuPlace("good", "good") as place:
        place.start()
        says = place.refused(GPU_JOB.replace("count: 2", "count: 4"))
        assert "4 devices were asked for, this machine has 2 GPUs" in says, says
        job = place.submit(GPU_JOB.replace("count: 2", "count: 4, oversubscribe: true"))
        in_state(place, job, "succeeded")
        assert "--devices 4 --kind gpu gpus 'GPU-fake-0,GPU-fake-1'" in place.run("logs", job).stdout


def test_lost_and_found():
    with GpuPlace("good", "good", script="wait done") as place:
        place.start()
        place.set_gpus("good", "lost")
        wait_for(lambda: place.healthy() == ["gpu0"], "the loss to be seen")
        assert "gpu1 has fallen off the bus (GPU-fake-1)" in place.run("devices").stdout
        gpu = place.devices()["gpu1"]
        assert gpu["description"] == "Fake H200" and gpu["memory_bytes"] == 0, gpu
        assert 'lockstep_gpu_healthy{gpu="gpu1",uuid="GPU-fake-1"} 0\n' in request(place, "/metrics")[1]
        job = place.submit()
        assert show(place, job)["reason"] == "waits for 2 GPUs, 1 is free, 1 of 2 unhealthy", show(place, job)
        smaller = place.submit(GPU_JOB.replace("count: 2", "count: 2, at_least: 1"))
        assert show(place, smaller)["reason"] == f"waits behind job {job}"
        assert place.run("cancel", job).returncode == 0
        in_state(place, smaller, "starting")
        assert "--devices 1 --kind gpu gpus 'GPU-fake-0'" in place.run("logs", smaller).stdout
        place.run("cancel", smaller)
        place.set_gpus("good", "good")
        wait_for(lambda: place.healthy() == ["gpu0", "gpu1"], "the return")
        with open(place.path("daemon.log"), encoding="utf-8") as log:
            text = log.read()
        assert "gpu1 (GPU-fake-1) is not used: it has fallen off the bus" in text, text
        assert "gpu1 (GPU-fake-1) is healthy again" in text, text


def test_ill():
    words = {"reset": "must be reset before it can be used again", "prohibited": "is in compute mode 'prohibited'",
             "ecc": "has had 2 uncorrectable memory errors since the driver was loaded",
             "unknown": "does not answer: Unknown Error"}
    with GpuPlace(*words, "good") as place:
        place.start()
        assert place.healthy() == ["gpu4"]
        table = place.run("devices").stdout
        for number, says in enumerate(words.values()):
            assert f"gpu{number} {says}" in table, table
            assert next(line for line in table.splitlines() if line.startswith(f"gpu{number} ")).split()[1] == "unhealthy"


def test_exclusive():
    with GpuPlace("exclusive busy", "exclusive", "busy") as place:
        place.start()
        assert place.healthy() == ["gpu0", "gpu1", "gpu2"]
        table = place.run("devices").stdout
        assert "gpu0 is in exclusive mode, and process 4242 uses it" in table and " taken " in table, table
        job = place.submit()
        in_state(place, job, "succeeded")
        assert "gpus 'GPU-fake-1,GPU-fake-2'" in place.run("logs", job).stdout


def test_failed_device_is_left_alone():
    job_text = GPU_JOB.replace("count: 2", "count: 4, at_least: 2")
    with GpuPlace(*["good"] * 4, script="device=2 done") as place:
        place.start("--device-retry", "3600")
        job = place.submit(job_text)
        in_state(place, job, "succeeded")
        log = place.run("logs", job).stdout.splitlines()
        assert "--devices 4" in log[0] and "GPU-fake-2" in log[0], log
        assert "--devices 2" in log[1] and log[1].endswith("gpus 'GPU-fake-0,GPU-fake-1'"), log
        assert place.healthy() == ["gpu0", "gpu1", "gpu3"]
        table = place.run("devices").stdout
        assert f"gpu2 failed (job {job}: unspecified launch failure), is tried again at " in table, table
        assert place.submit(job_text)


def test_failure_outlives_the_daemon():
    """A GPU's rest, and how often it failed, are known again after a crash of the daemon, by its UUID."""
    job_text = GPU_JOB.replace("count: 2", "count: 4, at_least: 2")
    with GpuPlace(*["good"] * 4, script="device=2 done") as place:
        place.start("--device-retry", "3600")
        job = place.submit(job_text)
        in_state(place, job, "succeeded")
        says = f"gpu2 failed (job {job}: unspecified launch failure), is tried again at "
        until = place.devices()["gpu2"]["reason"]
        for _ in range(2):
            place.daemon.kill()
            place.daemon.wait()
            place.start("--device-retry", "3600")
            assert place.healthy() == ["gpu0", "gpu1", "gpu3"]
            assert place.devices()["gpu2"]["reason"] == until and says in place.run("devices").stdout
        in_state(place, place.submit(job_text), "succeeded")
        store = sqlite3.connect(f"file:{place.path('daemon/lockstep.db')}?mode=ro", uri=True)
        assert store.execute("SELECT uuid, failures FROM device_rest").fetchall() == [("GPU-fake-2", 1)]
        store.close()


def test_store_of_older_formats():
    """What a lockstepd wrote that knew no GPUs, or forgot their failures, is read."""
    with GpuPlace("good", "good") as place:
        place.start()
        first = place.submit()
        in_state(place, first, "succeeded")
        for version, undo in ((2, ""), (1, "ALTER TABLE job DROP COLUMN gpu_mask;")):
            place.stop_daemon()
            store = sqlite3.connect(place.path("daemon/lockstep.db"))
            store.executescript(f"DROP TABLE device_rest; {undo} PRAGMA user_version = {version}")
            store.close()
            place.start()
            in_state(place, first, "succeeded")
            in_state(place, place.submit(), "succeeded")


def test_failed_device_is_tried_again():
    with GpuPlace("good", "good", script="device=1 76 done") as place:
        place.start("--device-retry", "1")
        job = place.submit(GPU_JOB, "devices.at_least=1")
        in_state(place, job, "succeeded")
        log = place.run("logs", job).stdout.splitlines()
        assert [line.split()[3] for line in log[:2]] == ["2", "1"], log  # the second time gpu0 alone, which fails unnamed
        assert show(place, job)["attempt"] == 3
        wait_for(lambda: place.healthy() == ["gpu0", "gpu1"], "both to be healthy again")


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
