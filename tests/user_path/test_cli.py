"""The command line itself: help, usage errors, exit codes, output formats. No daemon runs here."""
import json
import sys

from util import JOB, Place, run_tests, write_data


def complains(place, code, *arguments, says=""):
    result = place.run(*arguments)
    assert result.returncode == code, (arguments, result)
    assert result.stderr.startswith("lockstep: ") and result.stderr.count("\n") == 1, (arguments, result.stderr)
    assert says in result.stderr, (arguments, result.stderr)


def commands(place):
    text = place.run("--help").stdout
    return [line[2:16].strip() for line in text.splitlines() if line.startswith("  ") and not line.startswith("   ")]


def test_help():
    with Place() as place:
        names = commands(place)
        for name in ("submit", "list", "show", "watch", "logs", "cancel", "pause", "resume", "checkpoints", "devices",
                     "data import", "data inspect", "model list", "model show", "eval", "predict", "train", "bench"):
            assert name in names, (name, names)
        for name in names:
            result = place.run(*name.split(), "--help")
            assert result.returncode == 0 and result.stdout.startswith(f"usage: lockstep {name}"), (name, result)
            assert not result.stderr
        assert "exit codes" in place.run("--help").stdout.lower()


def test_usage_errors():
    with Place() as place:
        complains(place, 2, "sumbit", says="did you mean 'submit'")
        complains(place, 2, "model", says="list, show")
        complains(place, 2, "list", "--frobnicate", says="--frobnicate")
        complains(place, 2, "list", "-o", "xml", says="table and json")
        complains(place, 2, "submit", says="FILE")
        complains(place, 2, "submit", "a", "b", says="'b'")
        complains(place, 2, "resume", "x", "--devices", "zero", says="whole number")
        complains(place, 2, "resume", "x", "--devices", says="needs a value")
        assert place.run().returncode == 2


def test_daemon_unreachable():
    with Place() as place:
        for arguments in (("list",), ("show", "x"), ("watch", "x"), ("cancel", "x"), ("devices",)):
            complains(place, 3, *arguments)


def test_models():
    with Place() as place:
        models = json.loads(place.run("model", "list", "-o", "json").stdout)
        parameters = {m["name"]: m["parameters"] for m in models}
        assert parameters["lenet-caffe"] == 431080 and parameters["resnet20"] == 269722, parameters
        shown = json.loads(place.run("model", "show", "lenet-caffe", "-o", "json").stdout)
        assert shown["parameters"] == 431080 and shown["multiply_adds"] == 2293000, shown
        assert sum(layer["parameters"] for layer in shown["layers"]) == 431080
        text = place.run("model", "show", "lenet-caffe").stdout
        assert "431,080" in text and "2,293,000" in text, text
        plan = place.run("model", "show", "resnet20", "--plan", "--batch", "32", "--shards", "4")
        assert plan.returncode == 0 and "reorder" in plan.stdout.lower(), plan
        complains(place, 4, "model", "show", "lenet-coffee", says="lenet-coffee")


def test_model_memory():
    with Place() as place:
        ask = ("model", "show", "resnet50", "--memory", "--batch", "256", "--precision", "bfloat16")
        memory = json.loads(place.run(*ask, "-o", "json").stdout)["memory"]
        assert memory["kind"] == "gpu" and memory["shards"] == 8 and memory["device_memory_bytes"] == 80 * 2**30, memory
        assert sum(memory["bytes"].values()) == memory["total_bytes"] < 80 * 2**30 and memory["largest"], memory
        text = place.run(*ask).stdout
        assert "on 1 GPU, on each" in text and "activations and workspaces" in text and "not counted" in text.lower(), text
        assert f"fits into 80.0 GiB (--device-memory); the largest batch that fits is {memory['largest_batch']:,}." in text
        small = place.run(*ask, "--device-memory", "1").stdout
        assert "A batch of 256 does not fit into 1.0 GiB (--device-memory); the largest batch that fits is" in small, small
        none = place.run(*ask, "--device-memory", "0.1").stdout
        assert "not even one image a shard, a batch of 8, fits." in none, none
        assert "on 1 CPU worker" in place.run("model", "show", "lenet5", "--memory").stdout
        complains(place, 2, *ask[:4], "--precision", "int8", says="allowed are float32, tf32, bfloat16 and float16")
        complains(place, 2, *ask[:4], "--kind", "tpu", says="allowed are cpu and gpu")
        complains(place, 2, *ask, "--kind", "cpu", says="the cpu trains in float32 only")
        complains(place, 2, *ask, "--devices", "3", says="8 shards cannot be split over 3 devices")


def test_dry_run_reads_back():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        path = place.write("job.yaml", JOB)
        first = place.run("submit", path, "--dry-run", "--set", "optimizer.sgd.learning_rate=0.25")
        assert first.returncode == 0 and "0.25" in first.stdout, first
        second = place.run("submit", place.write("again.yaml", first.stdout), "--dry-run")
        assert second.returncode == 0 and second.stdout == first.stdout, second


def test_schema_help():
    with Place() as place:
        text = place.run("help", "optimizer.sgd").stdout
        assert "learning_rate" in text and "momentum" in text, text
        assert "batch_size" in place.run("help").stdout
        assert place.run("help", "optimizer.sdg").returncode != 0


def test_completion():
    with Place() as place:
        import subprocess
        script = place.run("completion").stdout
        test = script + '\nCOMP_WORDS=(lockstep sub); COMP_CWORD=1; _lockstep; echo "${COMPREPLY[@]}"'
        test += '\nCOMP_WORDS=(lockstep model show --pl); COMP_CWORD=3; _lockstep; echo "${COMPREPLY[@]}"'
        result = subprocess.run(["bash", "-c", test], capture_output=True, text=True)
        assert result.stdout == "submit\n--plan\n", result


def test_bench():
    with Place() as place:
        result = place.run("bench", "lenet-caffe", "--batch", "16", "--steps", "2", "--devices", "2", "-o", "json")
        assert result.returncode == 0, result
        figures = json.loads(result.stdout)
        for key in ("images_per_s", "step_ms", "input_wait", "peak_rss_bytes", "workers", "shards"):
            assert key in figures, (key, figures)
        assert figures["images_per_s"] > 0 and figures["workers"] == 2
        result = place.run("bench", "lenet-caffe", "--batch", "4", "--steps", "2", "--inference", "-o", "json")
        assert result.returncode == 0 and json.loads(result.stdout)["images_per_s"] > 0, result
        complains(place, 2, "bench", "lenet-caffe", "--batch", "15", "--steps", "1", "--shards", "4")
        complains(place, 2, "bench", "lenet-caffe", "--kind", "abacus")
        complains(place, 2, "bench", "lenet-caffe", "--precision", "float8")


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
