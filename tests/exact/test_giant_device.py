"""N devices as one giant one: without batch norm, a step over 8 shards is a step over the whole batch to float rounding;
one learning step is compared, parameter by parameter, and each shard's part must matter."""
import sys

import h5py
import numpy

from util import Place, run_tests, write_data

JOB = """name: giant
model: lenet-caffe
data: {train: tiny.h5:/train}
batch_size: 64
devices: {kind: cpu, oversubscribe: true}
steps: 1
optimizer: {sgd: {learning_rate: %s, momentum: 0.9, weight_decay: 5e-4}}
"""


def parameters(place, shards, rate):
    path = place.write("job.yaml", JOB % rate)
    folder = place.path(f"run-{shards}-{rate}")
    result = place.run("train", path, "-O", folder, "--set", f"shards={shards}", "--quiet")
    assert result.returncode == 0, result
    found = {}
    with h5py.File(folder + "/final.h5") as file:
        file["parameters"].visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None)
    assert found
    return found


def test_eight_shards_are_one():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        before = parameters(place, 1, "1e-30")
        one, eight = parameters(place, 1, "0.1"), parameters(place, 8, "0.1")
        for name, value in one.items():
            step = numpy.abs(value - before[name]).max()
            error = numpy.abs(value - eight[name]).max()
            assert step > 0, name
            # float32: 64 images' sums in another order, and the rounding of the parameter itself.
            assert error <= 2e-6 * numpy.abs(value).max() + 1e-4 * step, (name, step, error)


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
