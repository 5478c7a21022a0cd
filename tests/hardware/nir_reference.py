"""Runs a NIR graph node by node, as the format's own equations say: the reference for what reads graphs.

One Euler step of dt a time step, float64, sums over incoming edges, recurrent edges one step late, hard reset or what
else `Dynamics` asks for. Nothing is folded. Graphs inside the graph are not taken apart.
"""

import nir
import numpy as np
import torch
import torch.nn.functional as F

from sca_deploy.hardware.dynamics import Dynamics


def run_graph(graph, x, dt):
    """{neuron node: spikes (samples, steps, *shape)}, what entered the Output, and {neuron node: last v}."""
    outputs, arrived, last = run_nodes(graph, x, Dynamics(dt))
    fired = {name: hasattr(graph.nodes[name], "v_threshold") & (outputs[name] > 0) for name in last}
    return fired, arrived, last


def run_nodes(graph, x, dynamics):
    """{node: its output (samples, steps, *shape)}, what entered the Output, and {neuron node: last v}."""
    order, rank = _order(graph)
    state, outputs, arrived = {}, {name: [] for name in order}, []
    for t in range(x.shape[1]):
        now = {}
        for name in order:
            node = graph.nodes[name]
            read = [(a, _late(graph, rank, a, name)) for a, b in graph.edges if b == name]
            arriving = [state.get((a, "out"), torch.zeros(1)) if late else now[a] for a, late in read]
            total = sum(arriving)
            if isinstance(node, nir.Input):
                now[name] = torch.from_numpy(x[:, t].astype(np.float64))
            elif isinstance(node, nir.Output):
                arrived.append(total)
                now[name] = total
            elif isinstance(node, nir.Delay):
                now[name] = _delayed(node, total, state, name, dynamics.dt)
            elif hasattr(node, "r"):
                # What is late at the first step is zero, of whatever shape.
                whole = total.expand(len(x), *np.broadcast_shapes(total.shape[1:], node.r.shape))
                now[name] = _neurons(node, whole, state, name, dynamics)
            else:
                now[name] = _linear(node, _zeros_like_read(graph, read, total, len(x)))
            outputs[name].append(now[name])
        state |= {(name, "out"): value for name, value in now.items()}
    potentials = {name: state[name, "v"].numpy() for name in order if (name, "v") in state}
    return {name: torch.stack(v, 1).numpy() for name, v in outputs.items()}, torch.stack(arrived, 1).numpy(), potentials


def _zeros_like_read(graph, read, total, samples):
    """What a linear node reads; a late population's zeros at the first step have the shape of its parameters."""
    if total.dim() > 1:
        return total
    [(source, _)] = read
    return torch.zeros(samples, *graph.nodes[source].r.shape, dtype=torch.float64)


def _order(graph):
    """Sources first, where edges that close a loop do not count; and how far each node is from the Input."""
    rank, frontier = {}, [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    while frontier:
        rank |= {name: len(rank) for name in frontier}
        frontier = sorted({b for a, b in graph.edges if a in frontier and b not in rank})
    order, waiting = [], sorted(graph.nodes, key=rank.__getitem__)
    while waiting:
        for name in waiting:
            if not any(a in waiting and not _late(graph, rank, a, name) for a, b in graph.edges if b == name):
                order.append(name)
                waiting.remove(name)
                break
    return order, rank


def _late(graph, rank, source, name):
    """Whether a loop leads a population's output to itself, or to one nearer to the Input, by way of `name`."""
    if not hasattr(graph.nodes[source], "r") or source not in _reached(graph, name):
        return False
    ends = _reached(graph, name, lambda node: not hasattr(graph.nodes[node], "r"))
    inside = [n for n in ends if hasattr(graph.nodes[n], "r") and source in _reached(graph, n)]
    return any(rank[n] <= rank[source] for n in inside)


def _reached(graph, name, passed=lambda node: True):
    """A node and those it leads to, not beyond those that are not passed."""
    frontier, seen = [name], {name}
    while frontier:
        node = frontier.pop()
        onward = {b for a, b in graph.edges if a == node and passed(node)} - seen
        seen |= onward
        frontier += onward
    return seen


def _neurons(node, total, state, name, dynamics):
    dt = dynamics.dt
    parameter = {key: torch.from_numpy(np.asarray(value, np.float64)) for key, value in vars(node).items()
                 if isinstance(value, np.ndarray)}  # fmt: skip
    v = state.get((name, "v"), torch.zeros_like(total))
    current = total
    if "tau_syn" in parameter:
        old = state.get((name, "i"), 0.0)
        current = old + dt / parameter["tau_syn"] * (parameter["w_in"] * total - old)
        state[name, "i"] = current
    tau = parameter.get("tau", parameter.get("tau_mem"))
    if tau is None:
        v = v + dt * parameter["r"] * current
    else:
        v = v + dt / tau * (parameter["v_leak"] - v + parameter["r"] * current)
    state[name, "v"] = v
    if "v_threshold" not in parameter:
        return v
    threshold = parameter["v_threshold"].expand(v.shape)
    # One spike after the other: as long as the threshold is passed, it is taken away.
    spikes, left = torch.zeros_like(v), v.clone()
    while True:
        fires = left >= threshold if dynamics.tie == "ge" else left > threshold
        spikes += fires
        left = torch.where(fires, left - threshold, left)
        if not (dynamics.multi_spike and fires.any()):
            break
    reset = parameter.get("v_reset", torch.zeros(1)).double().expand(v.shape)
    after = left if dynamics.reset == "subtract" else torch.where(spikes > 0, reset, v)
    if dynamics.clamp == "threshold" and isinstance(node, nir.IF):
        after = torch.where(after < -threshold, -threshold, after)
    elif isinstance(dynamics.clamp, float):
        after = torch.where(after < dynamics.clamp, torch.full_like(after, dynamics.clamp), after)
    state[name, "v"] = after
    return spikes


def _delayed(node, total, state, name, dt):
    past = state.setdefault((name, "past"), [])
    past.append(total)
    steps = np.rint(np.broadcast_to(node.delay, total.shape[1:]) / dt).astype(int)
    out = torch.zeros_like(total)
    for late in np.unique(steps):
        if late < len(past):
            out += past[-1 - late] * torch.from_numpy((steps == late).astype(np.float64))
    return out


def _linear(node, x):
    if isinstance(node, nir.Flatten):
        return x.flatten(*(axis + 1 if axis >= 0 else axis for axis in (node.start_dim, node.end_dim)))
    if isinstance(node, nir.Scale):
        return x * torch.from_numpy(np.float64(node.scale))
    if isinstance(node, nir.Threshold):
        return (x > torch.from_numpy(np.float64(node.threshold))).double()
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kernel, stride, padding = (tuple(map(int, np.ravel(v))) for v in (node.kernel_size, node.stride, node.padding))
        area = kernel[0] * kernel[1] if isinstance(node, nir.SumPool2d) else 1
        return area * F.avg_pool2d(x, kernel, stride, padding)
    weight = torch.from_numpy(np.float64(node.weight))
    bias = getattr(node, "bias", None)
    bias = None if bias is None else torch.from_numpy(np.float64(bias))
    if isinstance(node, nir.Conv1d):
        return F.conv1d(x, weight, bias, node.stride, node.padding, node.dilation, node.groups)
    if isinstance(node, nir.Conv2d):
        if isinstance(node.padding, str) and node.padding == "same":
            reach = [d * (k - 1) for d, k in zip(node.dilation, weight.shape[2:], strict=True)]
            sides = [side for r in reversed(reach) for side in (r // 2, r - r // 2)]
            return F.conv2d(F.pad(x, sides), weight, bias, 1, 0, tuple(node.dilation), node.groups)
        padding = node.padding if isinstance(node.padding, str) else tuple(node.padding)
        return F.conv2d(x, weight, bias, tuple(node.stride), padding, tuple(node.dilation), node.groups)
    return F.linear(x, weight, bias)
