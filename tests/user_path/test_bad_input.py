"""Wrong input of every kind: one clear sentence that names the thing, what was found and what is allowed; the exit code
says whose fault it was; the daemon lives on."""
import os
import resource
import sys

import h5py

from util import JOB, Place, run_tests, write_data


def sentence(result, codes, *words):
    assert result.returncode in codes, result
    lines = [line for line in result.stderr.splitlines() if line.startswith("lockstep: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


def job_fails(text, codes, *words, data=None, prepare=None):
    with Place() as place:
        write_data(place.path("tiny.h5"), **(data or {}))
        if prepare:
            prepare(place)
        path = place.write("job.yaml", text)
        sentence(place.run("train", path, "--output", place.path("run"), "--quiet"), codes, *words)


def test_files_that_are_wrong_in_themselves():
    job_fails(JOB + "batch_sise: 32\n", (2,), "job.yaml:9", "batch_sise", "batch_size")
    job_fails(JOB.replace("batch_size: 32", "batch_size: many"), (2,), "job.yaml:4", "batch_size", "many")
    job_fails(JOB.replace("learning_rate: 0.02", "learning_rate: -1"), (2,), "learning_rate", "-1")
    job_fails(JOB.replace("momentum: 0.9", "momentum: [0.9"), (2,), "job.yaml:")
    job_fails(JOB.replace("shards: 4", "shards: 3"), (2,), "shards", "3")
    job_fails(JOB.replace("batch_size: 32", "batch_size: 30"), (2,), "30", "4")
    job_fails(JOB.replace("model: lenet-caffe", "model: lenet-coffee"), (2, 4), "lenet-coffee")
    job_fails("", (2,), "job.yaml")


def test_impossible_shape():
    network = """network:
  name: wrong
  input: {channels: 1, height: 28, width: 28}
  layers:
  - {name: big, convolution: {filters: 4, kernel: 31}}
  - fully_connected: {units: 10}
  - softmax_cross_entropy
"""
    job_fails(JOB.replace("model: lenet-caffe\n", network), (2,), "big", "31", "28")


def test_job_file_is_missing():
    with Place() as place:
        sentence(place.run("train", place.path("none.yaml")), (2, 4), "none.yaml")


def test_data_are_missing():
    """Every command says in which folders it looked."""
    with Place() as place:
        os.makedirs(place.path("jobs"))
        path = place.write("jobs/job.yaml", JOB)
        beside, here = place.path("jobs/tiny.h5"), os.path.join(os.path.realpath(place.folder), "tiny.h5")
        for command in ("train", "submit"):
            sentence(place.run(command, path), (4,), "key 'data.train': data set 'tiny.h5'", f"beside the job file ('{beside}')",
                     f"in the working folder ('{here}')")
            sentence(place.run(command, path, "--set", "data.train=/nowhere/x.h5:/train"), (4,), "no data set '/nowhere/x.h5'")
        assert not os.path.exists(place.path("runs"))
        assert place.run("submit", path, "--dry-run").returncode == 0
        for command in (("data", "inspect", "tiny.h5"), ("data", "bench", "./tiny.h5:/train"), ("data", "import", "tiny.h5", "x.h5")):
            sentence(place.run(*command), (4,), f"'{here}'")
        write_data(beside)
        write_data(place.path("here.h5"))
        trained = place.run("train", path, "--set", "epochs=1", "--output", place.path("run"))  # found beside the job file
        assert trained.returncode == 0, trained
        model = place.path("run/final.h5")
        sentence(place.run("eval", model, "--data", "tiny.h5:/test"), (4,), f"'{here}'")
        sentence(place.run("submit", path, "--set", "data.validation=gone.h5:/test"), (4,), "key 'data.validation'", "gone.h5')")
        assert place.run("eval", model, "--data", "here.h5:/test").returncode == 0
        os.remove(beside)
        sentence(place.run("eval", model), (4,), f"'{os.path.realpath(place.folder)}/jobs/tiny.h5'")


def test_data_that_do_not_fit():
    job_fails(JOB, (1, 2), "tiny.h5", "label 12", "0 to 9", data={"classes": 13, "labels": [0, 1, 12]})
    job_fails(JOB, (1, 2), "tiny.h5", "3", "1", data={"channels": 3})
    job_fails(JOB, (1, 2), "tiny.h5", "20", "28", data={"height": 20, "width": 20})


def test_data_that_are_not_there():
    job_fails(JOB, (1, 2, 4), "tiny.h5", prepare=lambda place: os.remove(place.path("tiny.h5")))
    job_fails(JOB.replace("tiny.h5:/train", "tiny.h5:/trian"), (1, 2, 4), "tiny.h5", "trian")

    def truncate(place):
        os.truncate(place.path("tiny.h5"), os.path.getsize(place.path("tiny.h5")) // 2)

    job_fails(JOB, (1, 2), "tiny.h5", prepare=truncate)

    def no_labels(place):
        with h5py.File(place.path("tiny.h5"), "a") as file:
            del file["train/labels"]

    job_fails(JOB, (1, 2, 4), "tiny.h5", "labels", prepare=no_labels)


def test_loss_is_not_a_number():
    job_fails(JOB.replace("learning_rate: 0.02", "learning_rate: 1000").replace("epochs: 2", "epochs: 20"), (1,), "loss", "step")


def test_disk_full_at_a_checkpoint():
    """A limit on file sizes stands for the full disk: the model is 1.7 MB, the limit 1 MB."""
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB)

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        # Python ignores SIGXFSZ, and so does the child: its writes fail with EFBIG.
        result = place.run("train", path, "-O", place.path("run"), "--quiet", preexec_fn=limit, restore_signals=False)
        sentence(result, (1, 74), "checkpoint")
        assert not [n for n in os.listdir(place.path("run/checkpoints")) if n.endswith(".h5")], "a torn checkpoint stayed"
        again = place.run("train", path, "-O", place.path("run"), "--quiet")
        assert again.returncode == 0, again


def test_the_daemon_lives_on():
    """What can only be found when the job runs fails that job, with the reason; the next job is served."""
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        path = place.write("job.yaml", JOB)
        sentence(place.run("submit", place.write("wrong.yaml", JOB + "sharts: 1\n")), (2,), "wrong.yaml:9", "sharts")
        sentence(place.run("show", "nothing"), (4,), "nothing")
        diverges = place.run("submit", path, "--watch", "--set", "optimizer.sgd.learning_rate=1000", "--set", "epochs=20")
        assert diverges.returncode == 1 and "loss" in diverges.stdout, diverges
        good = place.run("submit", path, "--watch")
        assert good.returncode == 0 and "test accuracy: " in good.stdout, good
        missing = place.run("submit", path, "--watch", "--set", "data.train=gone.h5:/train")
        assert missing.returncode in (1, 2, 4) and "gone.h5" in missing.stdout + missing.stderr, missing
        assert place.run("list").returncode == 0
        assert place.daemon.poll() is None


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
