#!/usr/bin/env python3
"""The peer of tests/bench/gpu.sh: PyTorch training one network, with channels_last, automatic mixed precision, torch.compile
and the fused optimizer.

usage: torch_gpu.py NETWORK --batch N --precision float32|tf32|bfloat16|float16 [--mode default|reduce-overhead|eager]

Prints one JSON object when it is ready; then, for each number of steps on a line of standard input, measures that many and
prints one. Its images lie on the GPU already: what ours uploads in every step it need not.
"""
import argparse
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import torch_bench


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, and a projection where the shape changes: the form that ours has too."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.down is None else self.down(x)), inplace=True)


def resnet50():
    layers, inputs = [], 64
    for number, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(count):
            layers.append(Bottleneck(inputs, width, 2 if number and block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                         nn.MaxPool2d(3, 2, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


NETWORKS = {**torch_bench.NETWORKS, "resnet50": (resnet50, 3, 224, 1000)}
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Peer:
    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        torch.manual_seed(1)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision != "float32"
        maker, channels, side, classes = NETWORKS[args.network]
        self.model = maker().to(self.device, memory_format=torch.channels_last).train()
        fused = {"fused": True} if self.device.type == "cuda" else {}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, **fused)
        self.images = torch.randn(args.batch, channels, side, side, device=self.device).contiguous(
            memory_format=torch.channels_last)
        self.labels = torch.randint(classes, (args.batch,), device=self.device)
        self.scaler = torch.amp.GradScaler(self.device.type) if args.precision == "float16" else None
        self.run = self.model if args.mode == "eager" else torch.compile(self.model, mode=args.mode)

    def step(self):
        args = self.args
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, TYPES.get(args.precision, torch.bfloat16), enabled=args.precision in TYPES):
            loss = F.cross_entropy(self.run(self.images), self.labels)
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.step()

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def measure(self, steps):
        for _ in range(3):
            self.step()
        self.wait()
        if self.device.type == "cuda":  # not the compiler's and the trials' memory: ours does not count them either
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        seconds = time.perf_counter() - begin
        memory = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return {"images_per_s": self.args.batch * steps / seconds, "step_ms": 1000 * seconds / steps,
                "device_memory_bytes": memory}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--mode", choices=("default", "reduce-overhead", "eager"), default="default")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    peer = Peer(args)
    for _ in range(5):  # compiles, chooses kernels
        peer.step()
    peer.wait()
    print(json.dumps({"version": torch.__version__, "cudnn": torch.backends.cudnn.version()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.measure(int(line))), flush=True)


if __name__ == "__main__":
    main()
