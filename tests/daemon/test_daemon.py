"""lockstepd: what it acknowledged survives its death, coordinators outlive it, the queue keeps its order, and the status
endpoint answers those it should."""
import http.client
import json
import os
import random
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys

from util import BUILD, JOB, LOCKSTEPD, Place, line_of, run_tests, wait_for, write_data

LONG = JOB.replace("epochs: 2", "epochs: 500") + "evaluation: {every: never}\ncheckpoint: {every: 20 steps}\n"


def show(place, job):
    result = place.run("show", job, "-o", "json")
    assert result.returncode == 0, result
    return json.loads(result.stdout)


def submit(place, path, *more):
    result = place.run("submit", path, "-o", "json", *more)
    assert result.returncode == 0, result
    return json.loads(result.stdout)["id"]


def in_state(place, job, *states):
    wait_for(lambda: show(place, job)["state"] in states, f"job {job} to be {states}", 60)


def http_port(place):
    with open(place.path("daemon.log"), encoding="utf-8") as log:
        return int(re.findall(r"http://127\.0\.0\.1:(\d+)/", log.read())[-1])


def request(place, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", http_port(place), timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_restart_loses_nothing():
    """The daemon dies by SIGKILL, then stops by SIGTERM; the coordinator goes on under the same process id."""
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        job = submit(place, place.write("job.yaml", LONG))
        in_state(place, job, "running")
        pid = show(place, job)["pid"]
        watch = subprocess.Popen([place.lockstep, "watch", job, "-o", "json"], env=place.environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = [watch.stdout.readline()]  # it is connected
        for end in (signal.SIGKILL, signal.SIGTERM):
            place.daemon.send_signal(end)
            place.daemon.wait(20)
            os.kill(pid, 0)  # still there
            place.start_daemon()
            info = show(place, job)
            assert (info["state"], info["pid"], info["attempt"]) == ("running", pid, 1), info
        step = show(place, job)["step"]
        wait_for(lambda: show(place, job)["step"] > step + 20, "the job to go on", 60)
        assert place.run("cancel", job).returncode == 0
        in_state(place, job, "cancelled")
        lines += watch.stdout.readlines()  # communicate() would pass over what readline() has buffered
        assert watch.wait(60) != 0  # cancelled
        indices = [json.loads(line)["index"] for line in lines if '"event"' in line]
        assert indices == list(range(len(indices))) and len(indices) > 2, indices
        wait_for(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in open(f"/proc/{pid}/stat").read().split()[2],
                 "the coordinator's end")


def test_fifty_kills():
    """SIGKILL at random moments, also while jobs are being submitted: what was acknowledged is there, the running job
    goes on in the same process and loses no step."""
    draws = random.Random(50)
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", LONG.replace("epochs: 500", "epochs: 5000"))
        place.start_daemon()
        running = submit(place, path)
        in_state(place, running, "running")
        pid, step, acknowledged = show(place, running)["pid"], 0, [running]
        for kill in range(50):
            submission = subprocess.Popen([place.lockstep, "submit", path, "-o", "json", "--request-key", str(kill)],
                                          env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                submission.wait(draws.uniform(0, 0.05) if kill % 2 else 30)
            except subprocess.TimeoutExpired:
                pass
            place.daemon.kill()
            place.daemon.wait()
            out, err = submission.communicate(timeout=30)
            if submission.returncode == 0:
                acknowledged.append(json.loads(out)["id"])
            else:
                assert err.count("\n") == 1, err
            place.start_daemon()
            info = show(place, running)
            assert (info["state"], info["pid"], info["attempt"]) == ("running", pid, 1) and info["step"] >= step, info
            step = info["step"]
            known = [job["id"] for job in json.loads(place.run("list", "-o", "json").stdout)]
            assert set(acknowledged) <= set(known), (acknowledged, known)
        assert len(acknowledged) > 25, acknowledged
        assert place.run("cancel", running).returncode == 0


def test_coordinator_ends_while_no_daemon_is_there():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        job = submit(place, place.write("job.yaml", JOB))
        in_state(place, job, "running", "succeeded")
        pid = show(place, job)["pid"]
        place.daemon.kill()
        place.daemon.wait()
        wait_for(lambda: not pid or not os.path.exists(f"/proc/{pid}"), "the coordinator's end", 60)
        place.start_daemon()
        info = show(place, job)
        assert info["state"] == "succeeded" and len(info["parameters_sha256"]) == 64, info


def test_submission_is_durable_and_repeatable():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        path = place.write("job.yaml", JOB)
        first = submit(place, path, "--request-key", "k1")
        place.daemon.kill()
        place.daemon.wait()
        place.start_daemon()
        assert submit(place, path, "--request-key", "k1") == first
        other = submit(place, path, "--request-key", "k2")
        assert other != first
        for job in (first, other):
            assert place.run("watch", job, "--quiet").returncode == 0
            assert show(place, job)["attempt"] <= 2


def test_order_of_the_queue():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        path = place.write("job.yaml", LONG)
        short = place.write("short.yaml", JOB)
        jobs = [submit(place, path)] + [submit(place, short) for _ in range(3)]
        in_state(place, jobs[0], "running")
        infos = [show(place, job) for job in jobs]
        assert [i["state"] for i in infos] == ["running"] + 3 * ["queued"], infos
        assert "waits for 2 devices" in infos[1]["reason"] and f"behind job {jobs[1]}" in infos[2]["reason"], infos
        devices = json.loads(place.run("devices", "-o", "json").stdout)["devices"]
        assert sum(len(d["jobs"]) for d in devices) == min(2, len(devices)), devices
        # A queued job is cancelled and paused without ever running.
        assert place.run("cancel", jobs[2]).returncode == 0 and place.run("pause", jobs[3]).returncode == 0
        assert [show(place, j)["state"] for j in jobs[2:]] == ["cancelled", "paused"]
        again = place.run("pause", jobs[2])
        assert again.returncode != 0 and "cannot be paused" in again.stderr, again
        assert place.run("cancel", jobs[0]).returncode == 0
        in_state(place, jobs[1], "succeeded")
        in_state(place, jobs[0], "cancelled")
        assert place.run("resume", jobs[3]).returncode == 0
        in_state(place, jobs[3], "succeeded")
        done = place.run("resume", jobs[3])
        assert done.returncode != 0 and "cannot be resumed" in done.stderr, done


def test_store_of_the_first_format():
    """A job store from before there were GPUs is taken over with its jobs."""
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        job = submit(place, place.write("job.yaml", JOB))
        in_state(place, job, "succeeded")
        place.stop_daemon()
        store = sqlite3.connect(place.path("daemon/lockstep.db"))
        store.execute("ALTER TABLE job DROP COLUMN gpu_mask")
        store.execute("DROP TABLE device_rest")
        store.execute("PRAGMA user_version = 1")
        store.close()
        place.start_daemon()
        assert show(place, job)["state"] == "succeeded"
        in_state(place, submit(place, place.path("job.yaml")), "succeeded")


def test_what_is_refused():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        path = place.write("job.yaml", JOB)
        for settings, words in ((["devices.count=4", "shards=2"], "4"), (["devices.kind=gpu"], "no GPU"),
                                (["devices.count=64", "shards=64", "batch_size=64", "devices.oversubscribe=false"], "64")):
            arguments = [part for setting in settings for part in ("--set", setting)]
            result = place.run("submit", path, *arguments)
            assert result.returncode != 0 and words in result.stderr and result.stderr.count("\n") == 1, result
        missing = place.run("show", "77")
        assert missing.returncode == 4 and "77" in missing.stderr, missing
        assert place.run("list", "-o", "json").stdout.strip() == "[]"


def run_daemon(place, *options):
    return subprocess.run([LOCKSTEPD, "--state", place.path("daemon"), "--socket", place.path("other.sock"), "--http",
                           "127.0.0.1:0", *options], env=place.environment, capture_output=True, text=True, timeout=20)


def test_starts_that_fail():
    with Place() as place:
        place.start_daemon()
        second = run_daemon(place)
        assert second.returncode == 1 and "another lockstepd" in second.stderr, second
        assert place.run("list").returncode == 0
        port = http_port(place)
        taken = run_daemon(place, "--state", place.path("two"), "--http", f"127.0.0.1:{port}")
        assert taken.returncode == 1 and str(port) in taken.stderr, taken
        for arguments, code, words in ((["--http", "nowhere"], 1, "ADDRESS:PORT"), (["--wrong", "1"], 2, "--wrong"),
                                       (["--retry-delay", "x"], 2, "x"), (["--worker", "/nonexistent"], 1, "/nonexistent")):
            bad = run_daemon(place, "--state", place.path("three"), *arguments)
            assert bad.returncode == code and words in bad.stderr and bad.stderr.count("\n") == 1, bad
        place.stop_daemon()
        with open(place.path("daemon/lockstep.db"), "r+b") as file:
            file.write(b"this is no database at all" * 10)
        broken = run_daemon(place)
        assert broken.returncode == 1 and "lockstep.db" in broken.stderr, broken


def test_rows_that_are_no_job():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        job = submit(place, place.write("job.yaml", JOB))
        in_state(place, job, "succeeded")
        place.stop_daemon()
        for column, bad, good, words in (("state", 99, 5, "no such state"), ("state", -1, 5, "no such state"),
                                         ("stop", 7, 0, "no such request"), ("spec", b"\xff", b"", "specification")):
            with sqlite3.connect(place.path("daemon/lockstep.db")) as store:
                store.execute(f"UPDATE job SET {column} = ?", (bad,))
            refused = run_daemon(place)
            assert refused.returncode == 1 and words in refused.stderr and f"job {job} " in refused.stderr, refused
            with sqlite3.connect(place.path("daemon/lockstep.db")) as store:
                store.execute(f"UPDATE job SET {column} = ?", (good,))


def test_request_before_the_daemon_is_ready():
    """A start that fails late, with a request waiting: an answer or a closed connection, and an orderly end."""
    with Place() as place:
        place.start_daemon()  # holds the state folder
        for path in ("/metrics", "/readyz", "/", "/api/v1/jobs"):
            free = socket.create_server(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            # Slow to say what it can do, which the daemon waits for.
            worker = place.write("worker", "#!/bin/sh\nsleep 1\necho cuda\n")
            os.chmod(worker, 0o755)
            place.write("gpus", "good\n")
            environment = {**place.environment, "FAKE_NVML": place.path("gpus"),
                           "LOCKSTEP_NVML": os.path.join(BUILD, "tests", "daemon", "fake-nvml.so")}
            daemon = subprocess.Popen([LOCKSTEPD, "--state", place.path("daemon"), "--socket", place.path("other.sock"),
                                       "--http", f"127.0.0.1:{port}", "--worker", worker], env=environment,
                                      stderr=subprocess.PIPE, text=True)
            client = []

            def connected():
                try:
                    client.append(socket.create_connection(("127.0.0.1", port), 10))
                except ConnectionRefusedError:
                    assert daemon.poll() is None, daemon.stderr.read()
                return client
            wait_for(connected, "the listening socket")
            client[0].sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert daemon.wait(20) == 1 and "another lockstepd" in daemon.stderr.read(), path
            try:
                answer = client[0].recv(4096)
            except ConnectionResetError:
                answer = b""
            assert not answer or b" 503 " in answer, answer
            client[0].close()
            daemon.stderr.close()


def test_socket_is_private():
    with Place() as place:
        place.start_daemon()
        assert stat.S_IMODE(os.stat(place.path("d.sock")).st_mode) == 0o660
        place.stop_daemon()
        assert not os.path.exists(place.path("d.sock"))


def test_status_endpoint():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        assert request(place, "/healthz") == (200, "ok\n")
        assert request(place, "/readyz") == (200, "ready\n")
        assert "No job yet" in request(place, "/")[1]
        assert json.loads(request(place, "/api/v1/jobs")[1]) == {"jobs": []}
        job = submit(place, place.write("job.yaml", JOB.replace("name: tiny", 'name: "tiny<b>"')))
        assert place.run("watch", job, "--quiet").returncode == 0
        code, body = request(place, f"/api/v1/jobs/{job}")
        info = json.loads(body)
        assert code == 200 and info["state"] == "succeeded" and info["job"]["batch_size"] == 32, info
        assert info["history"] and info["history"][-1]["report"]["step"] == info["step"], info["history"]
        assert len(info["evaluations"]) == 2, info["evaluations"]
        page = request(place, "/")[1]
        assert "tiny&lt;b&gt;" in page and "<b>" not in page
        metrics = request(place, "/metrics")[1]
        assert 'lockstep_jobs{state="succeeded"} 1\n' in metrics, metrics
        for side in ("input", "reader"):  # of the ring between readers and workers; values while a job runs
            assert f"# TYPE lockstep_job_{side}_wait_ratio gauge\n" in metrics, metrics
            assert 0 <= info["history"][-1]["report"][f"{side}_wait"] <= 1, info["history"]
        for line in metrics.splitlines():
            assert re.fullmatch(r'# (HELP|TYPE) lockstep_\w+ .+|lockstep_\w+(\{(\w+="[^"]*",?)+\})? [-+0-9.e]+', line), line
        assert request(place, "/api/v1/jobs/99")[0] == 404 and request(place, "/etc/passwd")[0] == 404
        assert request(place, "/", "POST")[0] == 405
        assert request(place, "/", host="evil.example")[0] == 403
        assert request(place, "/healthz", host="localhost:1")[0] == 200
        assert request(place, "/healthz", "HEAD") == (200, "")


def test_metrics_of_a_running_job():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        job = submit(place, place.write("job.yaml", LONG.replace("evaluation: {every: never}", "evaluation: {every: 1 epoch}")))

        def values():
            found = re.findall(rf'^lockstep_job_(\w+){{job="{job}",name="tiny"}} (\S+)$', request(place, "/metrics")[1], re.M)
            return {name: float(value) for name, value in found}
        wait_for(lambda: "validation_accuracy" in values() and values()["step"] > 0, "the first evaluation", 60)
        v = values()
        assert set(v) == {"step", "steps", "loss", "accuracy", "validation_accuracy", "images_per_second", "input_wait_ratio",
                          "reader_wait_ratio", "step_seconds", "learning_rate", "peak_resident_bytes", "attempts"}, v
        assert 0 < v["step"] <= v["steps"] == 4000 and v["loss"] > 0 and v["attempts"] == 1, v
        assert all(0 <= v[name] <= 1 for name in ("accuracy", "validation_accuracy", "input_wait_ratio", "reader_wait_ratio")), v
        assert v["images_per_second"] > 0 and 0 < v["step_seconds"] < 10 and v["peak_resident_bytes"] > 1 << 20, v
        assert abs(v["learning_rate"] - 0.02) < 1e-6, v
        assert place.run("cancel", job).returncode == 0
        in_state(place, job, "cancelled")
        assert not values()


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
