#!/usr/bin/python3
"""Forward and backward of whole networks against PyTorch in float64.

usage: test_torch.py PARITY_DUMP

The network's layers are built from its JSON with torch.nn.functional, one by one, independently of anything in C. The
reference backend must agree to float64 rounding, the CPU backend to float32 rounding.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import numpy
import torch
from torch.nn import functional as F

# name: (YAML or the name of a network in configs/models, batch)
EVERY_KIND = """
input: {channels: 3, height: 15, width: 14}
layers:
  - {name: conv1, convolution: {filters: 8, kernel: [3, 5], stride: [1, 2], pad: [1, 2]}}
  - relu
  - {name: lrn, local_response_norm: {size: 5, alpha: 0.3, beta: 0.75, k: 2}}
  - {name: pool1, max_pool: {kernel: 3, stride: 2, pad: 1, ceil: true}}
  - {name: conv2, convolution: {filters: 12, kernel: 3, pad: 2, dilation: 2, groups: 2, bias: false}}
  - {name: bn, batch_norm: {epsilon: 0.001}}
  - {leaky_relu: {slope: 0.2}}
  - {dropout: {rate: 0.3}}
  - {name: pool2, average_pool: {kernel: 3, stride: 2, pad: 1}}
  - {name: conv3, convolution: {filters: 12, kernel: 1}}
  - {name: sum, from: [conv3, pool2, conv3], add: {}}
  - {name: fc, fully_connected: {units: 11}}
  - {name: loss, softmax_cross_entropy: {}}
"""
AVERAGE_CEIL = """
input: {channels: 2, height: 8, width: 8}
layers:
  - {name: conv, convolution: {filters: 4, kernel: 3, pad: 1}}
  - {average_pool: {kernel: 3, stride: 2, ceil: true}}
  - {average_pool: {kernel: 3, stride: 2, pad: 1, ceil: true, count_pad: false}}
  - {fully_connected: {units: 5}}
  - softmax_cross_entropy
"""
ADAPTIVE = """
input: {channels: 3, height: 12, width: 8}
layers:
  - {name: conv, convolution: {filters: 6, kernel: 3, pad: 1, groups: 3}}
  - {adaptive_average_pool: {height: 3, width: 2}}
  - flatten
  - {fully_connected: {units: 9, bias: false}}
  - {relu: {}}
  - {fully_connected: {units: 5}}
  - softmax_cross_entropy
"""
NETWORKS = {
    "every kind": (EVERY_KIND, 5),
    "every kind, 16 images": (EVERY_KIND, 16),
    "average pooling, rounded up": (AVERAGE_CEIL, 3),
    "adaptive pooling": (ADAPTIVE, 4),
    "lenet5": ("lenet5", 16),
    "lenet-caffe": ("lenet-caffe", 4),
    "convnetjs-cifar10": ("convnetjs-cifar10", 16),
    "resnet20": ("resnet20", 3),
    "darknet-cifar": ("darknet-cifar", 2),
}


def pair(message, key, default):
    values = message.get(key) or [default]
    return (values[0], values[-1])


def pool(kind, x, m):
    kernel = pair(m, "kernel", None)
    stride = pair(m, "stride", None) if m.get("stride") else kernel
    arguments = {"kernel_size": kernel, "stride": stride, "padding": pair(m, "pad", 0), "ceil_mode": m.get("ceil", False)}
    if kind == "max_pool":
        return F.max_pool2d(x, **arguments)
    return F.avg_pool2d(x, count_include_pad=m.get("count_pad", True), **arguments)


def philox(counter, key):
    """Philox4x32-10 (Salmon and others, 2011) over arrays of counters: four arrays of words."""
    c = [numpy.broadcast_to(numpy.uint64(word), counter[3].shape) for word in counter]
    low = numpy.uint64(0xFFFFFFFF)
    for round_ in range(10):
        p0, p1 = c[0] * numpy.uint64(0xD2511F53), c[2] * numpy.uint64(0xCD9E8D57)
        k0, k1 = ((k + round_ * step) & 0xFFFFFFFF for k, step in zip(key, (0x9E3779B9, 0xBB67AE85)))
        c = [(p1 >> numpy.uint64(32)) ^ c[1] ^ numpy.uint64(k0), p1 & low,
             (p0 >> numpy.uint64(32)) ^ c[3] ^ numpy.uint64(k1), p0 & low]
    return c


def dropout(x, rate, layer):
    """What falls out is a function of seed, step, layer, place in the global batch and element: those of engine.h."""
    seed, step, first_image, purpose = 3, 5, 32, 4
    size = x[0].numel()
    kept = numpy.empty(x.shape, bool).reshape(len(x), size)
    for n in range(len(x)):
        fours = numpy.arange((size + 3) // 4, dtype=numpy.uint64)
        words = philox([step, first_image + n, layer, fours], [seed, purpose << 24])
        kept[n] = numpy.stack(words, 1).reshape(-1)[:size] >= numpy.uint64(int(rate * 2**32))
    return x * torch.tensor(kept.reshape(x.shape)) / (1 - rate)


class Network:
    """`values`: the parameters in network order, as flat arrays; taken one after another as layers need them."""

    def __init__(self, description, values):
        self.layers = description["layers"]
        self.values = values
        self.parameters = {}  # index: tensor with gradient
        self.statistics = {}  # index: mean or variance of the batch

    def take(self, index, shape):
        if index not in self.parameters:
            tensor = torch.tensor(self.values[index].reshape(shape), dtype=torch.float64, requires_grad=True)
            self.parameters[index] = tensor
        return self.parameters[index]

    def batch_norm(self, x, m, index, training):
        channels = x.shape[1]
        gamma, beta = self.take(index, (channels,)), self.take(index + 1, (channels,))
        if not training:
            mean, variance = (torch.tensor(self.values[index + i]) for i in (2, 3))
            return F.batch_norm(x, mean, variance, gamma, beta, False, 0, m.get("epsilon", 1e-5))
        self.statistics[index + 2] = x.mean((0, 2, 3)).detach()
        self.statistics[index + 3] = x.var((0, 2, 3), unbiased=False).detach()
        return F.batch_norm(x, None, None, gamma, beta, True, 0, m.get("epsilon", 1e-5))

    def layer(self, kind, m, xs, index, number, training):
        """Returns the output and how many parameters it took."""
        x = xs[0]
        if kind == "convolution":
            groups, filters = m.get("groups", 1), m["filters"]
            w = self.take(index, (filters, x.shape[1] // groups, *pair(m, "kernel", None)))
            b = self.take(index + 1, (filters,)) if m.get("bias", True) else None
            return F.conv2d(x, w, b, pair(m, "stride", 1), pair(m, "pad", 0), pair(m, "dilation", 1), groups), \
                1 + (b is not None)
        if kind == "fully_connected":
            x = x.flatten(1)
            w = self.take(index, (m["units"], x.shape[1]))
            b = self.take(index + 1, (m["units"],)) if m.get("bias", True) else None
            return F.linear(x, w, b), 1 + (b is not None)
        if kind == "batch_norm":
            return self.batch_norm(x, m, index, training), 4
        if kind in ("max_pool", "average_pool"):
            return pool(kind, x, m), 0
        if kind == "global_average_pool":
            return F.adaptive_avg_pool2d(x, 1), 0
        if kind == "adaptive_average_pool":
            return F.adaptive_avg_pool2d(x, (m["height"], m["width"])), 0
        if kind == "local_response_norm":
            return F.local_response_norm(x, m.get("size", 5), m.get("alpha", 1e-4), m.get("beta", 0.75), m.get("k", 1)), 0
        if kind == "dropout":
            return dropout(x, m.get("rate", 0.5), number) if training else x, 0
        if kind == "relu":
            return F.relu(x), 0
        if kind == "leaky_relu":
            return F.leaky_relu(x, m.get("slope", 0.1)), 0
        if kind == "add":
            return sum(xs[1:], xs[0]), 0
        if kind == "flatten":
            return x.flatten(1), 0
        if kind == "identity_shortcut":
            stride = m.get("stride", 1)
            return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, m["channels"] - x.shape[1])), 0
        if kind == "softmax_cross_entropy":
            return x.flatten(1), 0
        raise ValueError(kind)

    def logits(self, images, training):
        outputs, last, index = {"input": images}, images, 0
        for number, layer in enumerate(self.layers):
            kind = next(key for key in layer if key not in ("name", "from"))
            xs = [outputs[name] for name in layer["from"]] if layer.get("from") else [last]
            last, taken = self.layer(kind, layer[kind], xs, index, number, training)
            index += taken
            outputs[layer["name"]] = last
        return last


def floats_as_in_c(value):
    """Floating numbers of the schema's messages are float32: the network computes with the rounded ones."""
    if isinstance(value, dict):
        return {key: floats_as_in_c(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats_as_in_c(item) for item in value]
    return float(numpy.float32(value)) if isinstance(value, float) else value


def check(what, found, expected, tolerance, floor):
    """Distance relative to the length of what is expected, which counts as at least `floor` a value."""
    found, expected = numpy.ravel(found), numpy.ravel(expected)
    assert found.shape == expected.shape, f"{what}: {found.shape} values instead of {expected.shape}"
    length = max(numpy.linalg.norm(expected), floor * numpy.sqrt(expected.size))
    distance = numpy.linalg.norm(found - expected) / length
    assert distance <= tolerance, f"{what}: off by {distance:g} of its length, allowed {tolerance:g}"


def compare(dump, name, source, batch, backend, tolerance):
    with tempfile.TemporaryDirectory(prefix="lockstep-parity-") as folder:
        path = source
        if "\n" in source:
            path = os.path.join(folder, "source.yaml")
            with open(path, "w") as file:
                file.write(source)
        subprocess.run([dump, path, str(batch), backend, folder], check=True)

        def array(part, dtype="<f8"):
            return numpy.fromfile(os.path.join(folder, part), dtype)

        with open(os.path.join(folder, "network.json")) as file:
            description = floats_as_in_c(json.load(file))
        count = sum(part.startswith("parameter.") for part in os.listdir(folder))
        network = Network(description, [array(f"parameter.{i}") for i in range(count)])
        shape = [description["input"][key] for key in ("channels", "height", "width")]
        images = torch.tensor(array("images").reshape(batch, *shape))
        labels = torch.tensor(array("labels", "<i4").astype(numpy.int64))
        logits = network.logits(images, True)
        loss_images = 1 << (batch - 1).bit_length()  # as dump.c
        (F.cross_entropy(logits, labels, reduction="sum") / loss_images).backward()
        where = f"{name}, {backend} backend: "
        check(where + "probabilities", array("probabilities"), F.softmax(logits, 1).detach().numpy(), tolerance, 0)
        with torch.no_grad():
            inference = F.softmax(network.logits(images, False), 1).numpy()
        check(where + "inference", array("inference"), inference, tolerance, 0)
        largest = max(float(p.grad.abs().max()) for p in network.parameters.values())
        for i in range(count):
            learned = i in network.parameters
            expected = network.parameters[i].grad if learned else network.statistics[i]
            check(where + f"gradient of parameter {i}", array(f"gradient.{i}"), expected.numpy(), tolerance,
                  0.1 * largest if learned else 0.1)
        assert len(network.parameters) + len(network.statistics) == count


# test_torch.py DUMP cuda: that one alone (tests/gpu).
BACKENDS = (("cuda", 1e-4),) if sys.argv[2:] == ["cuda"] else (("cpu", 2e-5), ("reference", 1e-11))


# As in tests/gpu/run.sh: what the driver lists, or a device node.
def has_gpu():
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        listed = ""
    return listed.startswith("GPU ") or bool(glob.glob("/dev/nvidia[0-9]*"))


def main():
    if BACKENDS[0][0] == "cuda" and not has_gpu():
        print("skipped: no GPU, or no NVIDIA driver")
        sys.exit(77)
    torch.set_num_threads(1)
    for name, (source, batch) in NETWORKS.items():
        for backend, tolerance in BACKENDS:
            if (name, backend) == ("darknet-cifar", "reference"):
                continue  # half a minute of plain loops
            compare(sys.argv[1], name, source, batch, backend, tolerance)
        print("ok", name, flush=True)


main()
