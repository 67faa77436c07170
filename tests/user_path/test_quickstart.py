"""deploy/quickstart.sh as a newcomer runs it, on a tiny data set: twice in a row, then what the command line shows of
it, and the status page."""
import json
import os
import subprocess
import sys
import urllib.request

from util import BUILD, JOB, ROOT, Place, line_of, run_tests, write_data


def quickstart(place, *arguments, timeout=200):
    return subprocess.run([os.path.join(ROOT, "deploy", "quickstart.sh"), "--state", place.path("state"), "--build", BUILD,
                           "--no-install", "--no-build", *arguments], env=place.environment, capture_output=True,
                          text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_twice_in_a_row():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        job = place.write("job.yaml", JOB)
        place.environment["LOCKSTEP_ADDRESS"] = "unix:" + place.path("state/lockstepd.sock")
        try:
            digests = set()
            for _ in range(2):
                result = quickstart(place, "--job", job, "--data", place.path("tiny.h5"))
                assert result.returncode == 0, (result.stdout, result.stderr)
                assert line_of(result.stdout, "test accuracy:").endswith(" %")
                assert os.path.isfile(line_of(result.stdout, "model:"))
                digests.add(line_of(result.stdout, "parameters sha256:"))
            assert len(digests) == 1, digests
            page = line_of(result.stdout, "status page:")
            assert get(page + "healthz") and "<html" in get(page).lower()
            jobs = json.loads(place.run("list", "-o", "json").stdout)
            assert [j["state"] for j in jobs] == ["succeeded", "succeeded"], jobs
            shown = json.loads(place.run("show", jobs[1]["id"], "-o", "json").stdout)
            assert shown["parameters_sha256"] in digests, shown
            assert "tiny" in get(page + "api/v1/jobs")
            assert place.run("watch", jobs[1]["id"]).returncode == 0
            assert place.run("logs", "tiny").returncode == 0
            assert json.loads(place.run("checkpoints", "tiny", "-o", "json").stdout)
        finally:
            stopped = quickstart(place, "--stop")
        assert stopped.returncode == 0, stopped
        assert place.run("list").returncode == 3


def test_a_failed_job_fails_the_script():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        job = place.write("job.yaml", JOB)
        try:
            result = quickstart(place, "--job", job, "--data", place.path("tiny.h5"), "--set",
                                "optimizer.sgd.learning_rate=1000", "--set", "epochs=20")
            assert result.returncode != 0, result
        finally:
            quickstart(place, "--stop")
        assert quickstart(place, "--frobnicate").returncode == 2


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
