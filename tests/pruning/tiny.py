"""Small untrained networks that fire, and oracles for them: what the tests of budgets are about."""

import random

import numpy as np
import torch

from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.counts import by_core, count
from sca_deploy.hardware.energy import estimate as energy
from sca_deploy.hardware.lower import Rules
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.placement import routes
from sca_deploy.hardware.simulate import simulate
from sca_deploy.hardware.step_time import estimate as step_time
from sca_deploy.hardware.traffic import route
from sca_deploy.nn.network import MaskedBatchNorm, SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.oracle import Oracle
from sca_deploy.pruning.groups import channel_groups

LOIHI2 = load_chip("loihi2")
STEPS = 3
MAP = (1, 8, 8)


def conv(channels):
    return [{"type": "conv", "channels": channels, "kernel": 3, "padding": 1}, {"type": "batch_norm"}, {"type": "lif"}]


def chain(draw: random.Random, most=24):
    """Two convolutions, perhaps pooled, and a matrix, for an input of 1 x 8 x 8."""
    pool = [{"type": "max_pool", "kernel": 2}] if draw.random() < 0.5 else []
    hidden = {"type": "linear", "features": draw.randint(4, 4 * most)}
    ends = [{"type": "avg_pool", "kernel": 2}, {"type": "flatten"}, hidden, {"type": "batch_norm"}, {"type": "lif"}]
    first, second = draw.randint(3, most), draw.randint(3, most)
    return [*conv(first), *pool, *conv(second), *ends, {"type": "linear", "features": 10}]


def network_of(layers, shape=MAP, seed=0):
    """A network whose batch-norms have statistics at random, so that its neurons fire at all kinds of rates."""
    torch.manual_seed(seed)
    network = SpikingNetwork(NetworkSpec(shape, parse_layers(layers, {}), steps=STEPS))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, MaskedBatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.05, 0.3)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.1, 0.6)
    return network.eval()


def oracle_of(shape=MAP, samples=24, seed=0):
    """The chip, and binary input at random."""
    x = np.random.default_rng(seed).random((samples, STEPS, *shape)) < 0.3
    return Oracle(LOIHI2, Rules(STEPS, 0), x.astype(np.int64))


def masked(network, draw: random.Random):
    """The network with masks at random, of one channel at least."""
    for group in channel_groups(network):
        on = torch.zeros(group.channels)
        on[draw.sample(range(group.channels), draw.randint(1, group.channels))] = 1
        group.set_mask(on)
    return network


def takes(program, x):
    """What a Program takes of every resource on some samples, put together from the parts that count each."""
    mapping, run = map_program(program, LOIHI2), count(simulate(program, x))
    traffic = route(run, routes(program, mapping, LOIHI2))
    return {
        "cores": mapping.compiler_like,
        "words": sum(layer.synapse_words_total for layer in mapping.layers),
        "synops": run.per_sample["synops"],
        "energy-nj": energy(run, LOIHI2, traffic).typical,
        "step-us": step_time(run, by_core(run, mapping, traffic.fanout), LOIHI2).step.typical / 1000,
    }
