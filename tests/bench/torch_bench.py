#!/usr/bin/python3
"""One measurement of PyTorch on a network of the benchmark, for tests/bench/cpu.sh. Prints one JSON object.

usage: torch_bench.py NETWORK --batch N --steps N [--threads N] [--format nchw|channels_last] [--inference]

The same work as `lockstep bench`: forward, loss, backward, SGD with rate 1e-4, momentum 0.9 and weight decay 5e-4 on generated
images that are in memory already. Networks are written out here, so that only torch itself is needed.
"""
import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


def lenet_caffe():
    return nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10))


class Block(nn.Module):
    """Two 3x3 convolutions; `option` A: padded shortcut (CIFAR), B: 1x1 projection."""

    def __init__(self, inputs, outputs, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra, self.down = stride, outputs - inputs, None
        if option == "B" and (stride != 1 or inputs != outputs):
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.down is not None:
            x = self.down(x)
        elif self.stride != 1 or self.extra:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + x, inplace=True)


def stages(widths, blocks, option, inputs):
    layers = []
    for number, (width, count) in enumerate(zip(widths, blocks)):
        for block in range(count):
            layers.append(Block(inputs, width, 2 if number and block == 0 else 1, option))
            inputs = width
    return layers


def resnet20():
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
                         *stages((16, 32, 64), (3, 3, 3), "A", 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))


def resnet18():
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                         nn.MaxPool2d(3, 2, 1), *stages((64, 128, 256, 512), (2, 2, 2, 2), "B", 64),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def alexnet():
    relu = lambda: nn.ReLU(inplace=True)
    return nn.Sequential(nn.Conv2d(3, 64, 11, 4, 2), relu(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), relu(),
                         nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), relu(), nn.Conv2d(384, 256, 3, 1, 1), relu(),
                         nn.Conv2d(256, 256, 3, 1, 1), relu(), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(6), nn.Flatten(),
                         nn.Dropout(), nn.Linear(9216, 4096), relu(), nn.Dropout(), nn.Linear(4096, 4096), relu(),
                         nn.Linear(4096, 1000))


def vgg16():
    layers, inputs = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU(inplace=True)]
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(inplace=True), nn.Dropout(),
                         nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000))


NETWORKS = {  # name: (maker, channels, side, classes)
    "lenet-caffe": (lenet_caffe, 1, 28, 10),
    "resnet20": (resnet20, 3, 32, 10),
    "alexnet-torchvision": (alexnet, 3, 224, 1000),
    "resnet18": (resnet18, 3, 224, 1000),
    "vgg16": (vgg16, 3, 224, 1000),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", choices=("nchw", "channels_last"), default="nchw")
    parser.add_argument("--inference", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    maker, channels, side, classes = NETWORKS[args.network]
    layout = torch.channels_last if args.format == "channels_last" else torch.contiguous_format
    model = maker().to(memory_format=layout)
    images = torch.randn(args.batch, channels, side, side).contiguous(memory_format=layout)
    labels = torch.randint(classes, (args.batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    model.train(not args.inference)

    def step():
        if args.inference:
            with torch.inference_mode():
                model(images)
            return
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(2):
        step()
    times = []
    for _ in range(args.steps):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    print(json.dumps({
        "images_per_s": args.batch / statistics.mean(times),
        "step_ms": 1000 * statistics.median(times),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "version": torch.__version__,
    }))


if __name__ == "__main__":
    main()
