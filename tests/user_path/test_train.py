"""lockstep train, eval and predict: a model from one command without the daemon, with the same bits however it ran."""
import json
import os
import signal
import subprocess
import sys

import h5py
import numpy
from PIL import Image

from util import JOB, LOCKSTEP, Place, line_of, run_tests, wait_for, write_data


def test_same_bits_on_any_number_of_devices():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB)
        digests = set()
        for devices in (1, 2, 4):
            result = place.run("train", path, "--output", place.path(f"run{devices}"), "--devices", str(devices))
            assert result.returncode == 0, result
            assert result.stdout.splitlines()[-1].startswith("parameters sha256: "), result.stdout
            digests.add(line_of(result.stdout, "parameters sha256:"))
            assert os.path.exists(place.path(f"run{devices}/final.h5"))
        assert len(digests) == 1 and len(digests.pop()) == 64, digests


def test_interrupted_by_hand():
    """Ctrl-C makes a checkpoint; the same command goes on from it and ends with the same bits."""
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB.replace("epochs: 2", "epochs: 60") + "evaluation: {every: never}\n")
        whole = place.run("train", path, "--output", place.path("whole"), "--quiet")
        assert whole.returncode == 0, whole
        command = [LOCKSTEP, "train", path, "--output", place.path("parts")]
        process = subprocess.Popen(command, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        events = place.path("parts/events.log")
        wait_for(lambda: os.path.exists(events) and os.path.getsize(events) > 0 or process.poll() is not None, "a start")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 75 and "the same command goes on" in err, (process.returncode, out, err)
        again = place.run("train", path, "--output", place.path("parts"))
        assert again.returncode == 0, again
        assert line_of(again.stdout, "parameters sha256:") == line_of(whole.stdout, "parameters sha256:")


def test_another_job_is_refused():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB)
        assert place.run("train", path, "-O", place.path("run"), "--set", "epochs=1").returncode == 0
        other = place.run("train", path, "-O", place.path("run"), "--set", "seed=2")
        assert other.returncode == 2 and "holds another job" in other.stderr, other
        assert place.run("train", path, "-O", place.path("run"), "--set", "seed=2", "--set", "epochs=1",
                         "--fresh").returncode == 0


def test_ten_crop():
    """Images that are their own mirrors and no larger than the network's input have ten equal views; larger ones have not.
    No number of devices or images a run changes the result."""
    with Place() as place:
        write_data(place.path("tiny.h5"), height=32, width=32)
        assert place.run("train", place.write("job.yaml", JOB), "-O", place.path("run")).returncode == 0
        model = place.path("run/final.h5")
        with h5py.File(place.path("tiny.h5")) as tiny, h5py.File(place.path("mirror.h5"), "w") as mirror:
            half = tiny["test/images"][:, 2:30, 2:16]
            mirror["test/images"] = numpy.concatenate([half, half[:, :, ::-1]], 2)
            mirror["test/labels"] = tiny["test/labels"][:]

        def evaluate(*arguments):
            result = place.run("eval", model, *arguments, "-o", "json")
            assert result.returncode == 0, result
            return json.loads(result.stdout)

        one, ten = (evaluate("--data", "mirror.h5:/test", *more) for more in ((), ("--ten-crop",)))
        assert one["images"] == ten["images"] == 64 and one["accuracy"] == ten["accuracy"], (one, ten)
        assert abs(one["loss"] - ten["loss"]) < 1e-5, (one, ten)
        results = [evaluate("--ten-crop", "--devices", devices, "--batch", batch)
                   for devices, batch in (("1", "32"), ("2", "32"), ("2", "8"))]
        assert results[0]["images"] == 64 and results[0]["loss"] != evaluate()["loss"]
        assert len({r["loss"] for r in results[:2]}) == 1, results
        assert abs(results[2]["loss"] - results[0]["loss"]) < 1e-5, results


def test_fresh_deletes_jobs_only():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB.replace("epochs: 2", "steps: 2"))
        os.mkdir(place.path("mine"))
        kept = place.write("mine/letter.txt", "dear")
        refused = place.run("train", path, "-O", place.path("mine"), "--fresh")
        assert refused.returncode == 2 and "no job's" in refused.stderr and refused.stderr.count("\n") == 1, refused
        assert os.path.exists(kept)
        os.mkdir(place.path("empty"))
        for folder in ("empty", "empty", "new"):
            result = place.run("train", path, "-O", place.path(folder), "--fresh")
            assert result.returncode == 0, result


def test_eval_and_predict():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB.replace("epochs: 2", "epochs: 6"))
        result = place.run("train", path, "--output", place.path("run"))
        assert result.returncode == 0, result
        accuracy = line_of(result.stdout, "test accuracy:")
        model = line_of(result.stdout, "model:")
        evaluated = place.run("eval", model, "--data", place.path("tiny.h5") + ":/test")
        assert evaluated.returncode == 0 and line_of(evaluated.stdout, "test accuracy:") == accuracy, (accuracy, evaluated)
        with h5py.File(place.path("tiny.h5")) as file:
            images, labels = file["test/images"][:20], file["test/labels"][:20]
        names = []
        for i, image in enumerate(images):
            names.append(place.path(f"{i}.png"))
            Image.fromarray(image[:, :, 0]).save(names[-1])
        Image.fromarray(images[0][:, :, 0]).save(place.path("0.jpg"), quality=98)
        answer = place.run("predict", model, *names, place.path("0.jpg"), "-o", "json")
        assert answer.returncode == 0, answer
        answer = json.loads(answer.stdout)
        assert len(answer) == 21 and len(answer[0]["classes"]) == 5
        for a in answer:  # the best five of ten, in order
            best = [c["probability"] for c in a["classes"]]
            assert best == sorted(best, reverse=True) and 0.5 <= sum(best) <= 1.0001, a
        right = numpy.mean([int(a["classes"][0]["class"]) == l for a, l in zip(answer, labels)])
        assert right > 0.5, right
        assert answer[20]["classes"][0]["class"] == answer[0]["classes"][0]["class"]
        place.environment["CUDA_VISIBLE_DEVICES"] = ""  # from here on there is no GPU
        on_cpu = place.run("predict", model, names[0], "--kind", "cpu", "--precision", "float32", "-o", "json")
        assert on_cpu.returncode == 0 and json.loads(on_cpu.stdout)[0]["classes"][0]["class"] == answer[0]["classes"][0]["class"]
        for arguments in (("predict", model, names[0]), ("eval", model)):
            refused = place.run(*arguments, "--kind", "cpu", "--precision", "bfloat16")
            assert refused.returncode == 2 and "the CPU computes in float32 only" in refused.stderr, refused
            for wrong in (("--kind", "abacus"), ("--precision", "float8")):
                refused = place.run(*arguments, *wrong)
                assert refused.returncode == 2 and "allowed are" in refused.stderr, refused
            absent = place.run(*arguments, "--kind", "gpu")
            assert absent.returncode == 2 and "gpu was asked for, but" in absent.stderr, absent
            assert absent.stderr.count("\n") == 1, absent
        # A file shows what an import of it would: transparency is dropped, inks are made colours.
        hidden = Image.fromarray(images[0][:, :, 0]).convert("RGBA")
        hidden.putalpha(0)
        hidden.save(place.path("hidden.png"))
        Image.fromarray(images[0][:, :, 0]).convert("RGB").convert("CMYK").save(place.path("ink.jpg"), quality=98)
        Image.new("L", (40000, 2)).save(place.path("long.png"))
        files = [names[0], place.path("hidden.png"), place.path("ink.jpg"), place.path("long.png")]
        same = place.run("predict", model, *files, "-o", "json")
        assert same.returncode == 0, same
        same = [a["classes"] for a in json.loads(same.stdout)]
        assert same[0] == same[1] and same[2][0]["class"] == same[0][0]["class"], same
        Image.new("L", (70000, 2)).save(place.path("long.png"))
        bad = place.run("predict", model, place.path("long.png"))
        assert bad.returncode != 0 and "2x70000 pixels; allowed are 1 to 65536" in bad.stderr, bad
        place.write("text.png", "this is not an image")
        bad = place.run("predict", model, place.path("text.png"))
        assert bad.returncode in (1, 2) and "text.png" in bad.stderr and bad.stderr.count("\n") == 1, bad


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
