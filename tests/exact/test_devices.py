"""The same job on 1, 2, 4 and 8 workers: equal SHA-256 of all parameters. Networks that have everything that could tell
workers apart: batch norm (statistics), dropout and augmentation (random draws), shortcuts, a schedule."""
import sys

from util import Place, line_of, run_tests, write_data

RESNET = """name: resnet
model: resnet20
data: {train: tiny.h5:/train, validation: tiny.h5:/test}
batch_size: 32
shards: 8
devices: {kind: cpu, oversubscribe: true}
steps: 6
optimizer: {sgd: {learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-4}}
schedule: {warm_up_epochs: 0.3, cosine: {}}
augment: [{random_crop: {pad: 4}}, {horizontal_flip: {}}]
checkpoint: {every: 4 steps}
evaluation: {every: 3 steps}
"""

DROPOUT = """name: dropout
network:
  name: dropout
  input: {channels: 3, height: 32, width: 32}
  layers:
    - {convolution: {filters: 12, kernel: 5, pad: 2}}
    - {batch_norm: {}}
    - relu
    - {max_pool: {kernel: 3, stride: 2}}
    - {local_response_norm: {}}
    - {convolution: {filters: 24, kernel: 3, groups: 2}}
    - relu
    - {average_pool: {kernel: 2}}
    - {fully_connected: {units: 50}}
    - relu
    - {dropout: {rate: 0.5}}
    - {fully_connected: {units: 10}}
    - {softmax_cross_entropy: {}}
data: {train: tiny.h5:/train, validation: tiny.h5:/test}
batch_size: 64
shards: 8
devices: {kind: cpu, oversubscribe: true}
epochs: 4
optimizer: {sgd: {learning_rate: 0.02, momentum: 0.9, weight_decay: 5e-4}}
schedule: {plateau: {patience: 1}}
augment: [{random_crop: {pad: 4}}, {horizontal_flip: {}}]
"""


def digests(job):
    with Place() as place:
        write_data(place.path("tiny.h5"), train=200, test=50, height=32, width=32, channels=3)
        path = place.write("job.yaml", job)
        found = {}
        for devices in (1, 2, 4, 8):
            result = place.run("train", path, "-O", place.path(f"run{devices}"), "--devices", str(devices), "--quiet")
            assert result.returncode == 0, (devices, result)
            found[devices] = (line_of(result.stdout, "parameters sha256:"), line_of(result.stdout, "test accuracy:"))
        return found


def test_batch_norm_and_augmentation():
    found = digests(RESNET)
    assert len(set(found.values())) == 1, found


def test_dropout_and_plateau():
    found = digests(DROPOUT)
    assert len(set(found.values())) == 1, found


def test_another_seed_gives_other_bits():
    """The comparison above can fail."""
    with Place() as place:
        write_data(place.path("tiny.h5"), train=200, test=50, height=32, width=32, channels=3)
        path = place.write("job.yaml", RESNET)
        found = set()
        for seed in (1, 2):
            result = place.run("train", path, "-O", place.path(f"run{seed}"), "--set", f"seed={seed}", "--quiet")
            assert result.returncode == 0, result
            found.add(line_of(result.stdout, "parameters sha256:"))
        assert len(found) == 2, found


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
