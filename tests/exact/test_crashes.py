"""A job whose coordinator is killed with SIGKILL again and again, one that is paused and goes on with another number of
workers, and one whose newest checkpoint is damaged: all end with the bits of the run that nothing happened to.

test_crashes.py BUILD [--crashes N]: how often the first one is killed (4)."""
import glob
import json
import os
import random
import signal
import sys

from util import Place, line_of, run_tests, wait_for, write_data

CRASHES = int(sys.argv[sys.argv.index("--crashes") + 1]) if "--crashes" in sys.argv else 4
JOB = f"""name: tiny
model: lenet-caffe
data: {{train: tiny.h5:/train, validation: tiny.h5:/test}}
batch_size: 64
shards: 8
devices: {{count: 2, kind: cpu, oversubscribe: true}}
steps: {240 if CRASHES <= 10 else 1200}
optimizer: {{sgd: {{learning_rate: 0.02, momentum: 0.9, weight_decay: 5e-4}}}}
schedule: {{cosine: {{}}}}
augment: [{{random_crop: {{pad: 2}}}}, {{horizontal_flip: {{}}}}]
checkpoint: {{every: 10 steps, keep: 3}}
evaluation: {{every: 50 steps}}
retry: {{attempts: 100}}
"""


def job_of(place, name):
    return json.loads(place.run("show", name, "-o", "json").stdout)


def whole(place, path):
    """The digest of a run without the daemon, which nothing disturbs, on one worker."""
    result = place.run("train", path, "-O", place.path("whole"), "--devices", "1", "--quiet", timeout=280)
    assert result.returncode == 0, result
    return line_of(result.stdout, "parameters sha256:")


def start(place):
    write_data(place.path("tiny.h5"), train=300)
    path = place.write("job.yaml", JOB)
    expected = whole(place, path)
    place.start_daemon("--retry-delay", "10")
    submitted = place.run("submit", path, "-o", "json")
    assert submitted.returncode == 0, submitted
    return expected, json.loads(submitted.stdout)["id"]


def finish(place, job):
    result = place.run("watch", job, timeout=280)
    assert result.returncode == 0, result
    info = job_of(place, job)
    assert info["state"] == "succeeded", info
    return info["parameters_sha256"]


def test_killed_again_and_again():
    draws = random.Random(2016)
    with Place() as place:
        expected, job = start(place)
        step = 0
        total = job_of(place, job)["total_steps"] or 240
        for crash in range(CRASHES):
            goal = step + draws.randint(1, 2 * max(total, 240) // (3 * CRASHES))
            found = {}

            def reached():
                found.update(job_of(place, job))
                return found["state"] == "succeeded" or (found["pid"] and found["state"] == "running"
                                                         and found["step"] >= goal)
            wait_for(reached, f"step {goal}", 120)
            assert found["state"] == "running", f"it was done before crash {crash}; make it longer"
            os.kill(found["pid"], signal.SIGKILL)
            attempt = found["attempt"]
            wait_for(lambda: job_of(place, job)["attempt"] > attempt, "the next attempt", 60)
            step = found["step"]
        assert finish(place, job) == expected
        assert job_of(place, job)["attempt"] == CRASHES + 1


def test_paused_and_resumed_on_other_numbers_of_workers():
    with Place() as place:
        expected, job = start(place)
        for goal, devices in ((20, 8), (90, 1), (150, 4)):
            wait_for(lambda: job_of(place, job)["state"] == "running" and job_of(place, job)["step"] >= goal,
                     f"step {goal}", 60)
            paused = place.run("pause", job)
            assert paused.returncode == 0, paused
            wait_for(lambda: job_of(place, job)["state"] == "paused", "the pause")
            resumed = place.run("resume", job, "--devices", str(devices))
            assert resumed.returncode == 0, resumed
            wait_for(lambda: job_of(place, job)["state"] == "running", "the resume")
            assert job_of(place, job)["workers"] == devices
        assert finish(place, job) == expected


def test_damaged_checkpoint():
    """The newest checkpoint has a flipped byte: it is named and the one before it is used."""
    with Place() as place:
        expected, job = start(place)
        wait_for(lambda: job_of(place, job)["step"] >= 60, "step 60", 60)
        assert place.run("pause", job).returncode == 0
        wait_for(lambda: job_of(place, job)["state"] == "paused", "the pause")
        newest = sorted(glob.glob(os.path.join(job_of(place, job)["folder"], "checkpoints", "*.h5")))[-1]
        with open(newest, "r+b") as file:
            file.seek(os.path.getsize(newest) // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        assert place.run("resume", job).returncode == 0
        result = place.run("watch", job, timeout=200)
        assert os.path.basename(newest) in result.stdout + result.stderr and "damaged" in result.stdout + result.stderr
        assert finish(place, job) == expected


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
