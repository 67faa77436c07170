"""Coordinators that misbehave, played by small scripts in the place of lockstep-worker: none of it ever counts as
success, and none is left running."""
import json
import os
import stat
import sys

from util import BUILD, JOB, Place, run_tests, wait_for, write_data

FAKE = os.path.join(BUILD, "tests", "daemon", "fake-coordinator")
WORKER = os.path.join(BUILD, "bin", "lockstep-worker")


def show(place, job):
    return json.loads(place.run("show", job, "-o", "json").stdout)


def run_with(script, settings=(), options=()):
    """Submits a job to a daemon whose coordinator is `script`; yields once it has ended or been queued again."""
    place = Place()
    place.__enter__()
    write_data(place.path("tiny.h5"))
    worker = place.write("worker", script)
    os.chmod(worker, os.stat(worker).st_mode | stat.S_IXUSR)
    place.start_daemon("--worker", worker, "--retry-delay", "10", *options)
    path = place.write("job.yaml", JOB)
    arguments = [part for setting in settings for part in ("--set", setting)]
    job = json.loads(place.run("submit", path, "-o", "json", *arguments).stdout)["id"]
    return place, job


def ends(place, job, state):
    wait_for(lambda: show(place, job)["state"] in ("failed", "succeeded", "cancelled"), "the end", 60)
    info = show(place, job)
    assert info["state"] == state, info
    return info


def test_exit_0_without_an_outcome_is_a_crash():
    place, job = run_with("#!/bin/sh\nexit 0\n")
    info = ends(place, job, "failed")
    assert info["attempt"] == 4 and "exit code 0" in info["reason"] and "3 times in a row" in info["reason"], info
    place.__exit__()


def test_death_by_signal():
    place, job = run_with("#!/bin/sh\nkill -SEGV $$\n", ["retry.attempts=1"])
    info = ends(place, job, "failed")
    assert info["attempt"] == 2 and "signal 11" in info["reason"], info
    place.__exit__()


def test_no_retry_when_none_is_wanted():
    place, job = run_with("#!/bin/sh\nexit 9\n", ["retry.attempts=0"])
    info = ends(place, job, "failed")
    assert info["attempt"] == 1 and "exit code 9" in info["reason"] and "started again" not in info["reason"], info
    place.__exit__()


def daemon_log(place):
    with open(place.path("daemon.log"), encoding="utf-8") as log:
        return log.read()


def test_garbage_in_the_event_log():
    """Nothing whole behind it: as good as torn in a crash. The coordinator's end is all that is known."""
    place, job = run_with('#!/bin/sh\nhead -c 4096 /dev/urandom > "$2/events.log"\nexit 0\n', ["retry.attempts=0"])
    info = ends(place, job, "failed")
    assert info["attempt"] == 1 and "exit code 0" in info["reason"] and info.get("step", 0) == 0, info
    place.__exit__()


def test_damage_in_the_event_log():
    """A whole record stands behind a bad one: failed for good, and the daemon says so, once."""
    place, job = run_with(f'#!/bin/sh\nFAKE_COORDINATOR=damaged exec {FAKE} "$@"\n')
    info = ends(place, job, "failed")
    assert info["attempt"] == 1 and "events.log' is damaged: the record at byte 0" in info["reason"], info
    assert daemon_log(place).count(f"error: job {job}: ") == 1, daemon_log(place)
    place.stop_daemon()
    place.start_daemon()
    assert show(place, job)["state"] == "failed"
    assert daemon_log(place).count(f"error: job {job}: ") == 2, daemon_log(place)  # said again by the next daemon
    place.__exit__()


def test_job_that_the_coordinator_cannot_read():
    place, job = run_with(f'#!/bin/sh\n[ "$1" = run ] && echo "[" > "$2/job.json"\nexec {WORKER} "$@"\n')
    info = ends(place, job, "failed")
    assert info["attempt"] == 1 and "job.json" in info["reason"] and "died" not in info["reason"], info
    place.__exit__()


def test_what_it_prints_is_in_the_logs():
    place, job = run_with('#!/bin/sh\nseq 1 5\necho to standard error >&2\nexit 1\n', ["retry.attempts=0"])
    ends(place, job, "failed")
    assert place.run("logs", job).stdout == "1\n2\n3\n4\n5\nto standard error\n"
    assert place.run("logs", job, "--tail", "2").stdout == "5\nto standard error\n"
    place.__exit__()


def test_one_that_does_not_stop_is_killed():
    script = "#!/bin/bash\ntrap '' TERM INT\necho up\nwhile :; do read -rt 1 < <(:); done\n"
    place, job = run_with(script, options=["--stop-grace", "1"])
    wait_for(lambda: "up" in place.run("logs", job).stdout, "its start")
    pid = show(place, job)["pid"]
    assert place.run("cancel", job).returncode == 0
    assert show(place, job)["state"] == "starting"
    ends(place, job, "cancelled")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "its death")
    place.__exit__()


def test_asking_again_does_not_put_its_end_off():
    script = "#!/bin/bash\ntrap '' TERM INT\necho up\nwhile :; do read -rt 1 < <(:); done\n"
    place, job = run_with(script, options=["--stop-grace", "2"])
    wait_for(lambda: "up" in place.run("logs", job).stdout, "its start")

    def again():
        place.run("cancel", job)
        return show(place, job)["state"] == "cancelled"
    wait_for(again, "its death", 20)
    place.__exit__()


def test_it_inherits_nothing():
    """No descriptor of the daemon's, its own session, only the nudge socket to talk to."""
    script = '#!/bin/bash\nls /proc/$$/fd | tr "\\n" " "\ncat /proc/$$/stat | cut -d" " -f1,6\nexit 1\n'
    place, job = run_with(script, ["retry.attempts=0"])
    ends(place, job, "failed")
    fds, session = place.run("logs", job).stdout.split("\n")[0].rsplit(" ", 2)[0], place.run("logs", job).stdout.split()[-2:]
    assert set(fds.split()) <= {"0", "1", "2", "3", "255"}, fds  # 255 and 3: bash's own
    assert session[0] == session[1], session
    place.__exit__()


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
