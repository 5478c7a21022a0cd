"""One training step of the same spiking network in sca-deploy, norse, snntorch and spikingjelly.

    python benchmarks/training_step.py [--rounds 20] [--threads 1] [--at-least 1.0] [--sca-at-most 3] [--json]

Four convolutions with batch-norm, LIF neurons (beta 0.5, hard reset, sigmoid surrogate), two average
poolings and a linear read-out of the summed spikes; 28 x 28 pixels shown over T = 4 steps. A step is
forward, cross-entropy, backward and Adam. All start from the same weights, and times are printed only if
all give the same loss and the same gradients.

Every framework in its fastest form that does this: time folded into the batch for all but the neurons, the
first convolution once for the constant image, the reset detached. norse: LIFBoxCell under Lift; snntorch: Leaky
over a loop; spikingjelly: step_mode "m". Each runs in the memory layout, contiguous or channels-last, that is the
faster for it in the first rounds, and all under the allocator setting of our trainer. They take
turns in one process, a step each; times are medians, ratios the median of the rounds' ratios with their
quartiles. Memory is the growth of a fresh process' peak over three steps.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError
from sca_deploy.nn.allocator import keep_freed_memory
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.report.tables import table

STEPS = 4
BETA = 0.5
SLOPE = 4.0
SIDE = 28
CLASSES = 10
TRIALS = 3
OURS, SCA = "sca-deploy", "sca-deploy, SCA"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Folded(nn.Module):
    """The network around a framework's neurons.

    Args:
        widths: channels of the four convolutions.
        neurons: maps inputs (T, N, ...) to spikes (T, N, ...); called for each of the four layers.
        gain: what a neuron's input must be multiplied by for v[t] = BETA v[t-1] + input.
    """

    def __init__(self, widths: list[int], neurons: Callable[[], nn.Module], gain: float = 1.0) -> None:
        super().__init__()
        ins = [1, *widths[:-1]]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(ins, widths, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        for norm in self.norms:
            nn.init.constant_(norm.weight, gain)
        self.neurons = nn.ModuleList(neurons() for _ in widths)
        self.readout = nn.Linear(widths[-1] * (SIDE // 4) ** 2, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits summed over time."""
        frames = self.norms[0](self.convs[0](x))
        spikes = self.neurons[0](frames.expand(STEPS, *frames.shape)).flatten(0, 1)
        for i in range(1, len(self.convs)):
            currents = self.norms[i](self.convs[i](spikes))
            spikes = self.neurons[i](currents.unflatten(0, (STEPS, -1))).flatten(0, 1)
            if i % 2:
                spikes = F.avg_pool2d(spikes, 2)
        return self.readout(spikes.flatten(1).unflatten(0, (STEPS, -1)).sum(0)) + (STEPS - 1) * self.readout.bias
