"""Runs a NIR graph node by node, as the format's own equations say: the reference for what reads graphs.

One Euler step of dt a time step, float64, sums over incoming edges, recurrent edges one step late, hard reset.
Nothing is folded.
"""

import nir
import numpy as np
import torch
import torch.nn.functional as F


def run_graph(graph, x, dt):
    """{neuron node: spikes (samples, steps, *shape)}, what entered the Output, and {neuron node: last v}."""
    steps = x.shape[1]
    order = _order(graph)
    state, spikes, outputs = {}, {}, []
    for t in range(steps):
        now = {}
        for name in order:
            node = graph.nodes[name]
            sources = [a for a, b in graph.edges if b == name]
            arriving = [now[s] if s in now else state[s, "out"] for s in sources if s in now or (s, "out") in state]
            total = sum(arriving) if arriving else 0.0
            if isinstance(node, nir.Input):
                now[name] = torch.from_numpy(x[:, t].astype(np.float64))
            elif isinstance(node, nir.Output):
                outputs.append(total)
            elif isinstance(node, nir.Delay):
                now[name] = _delayed(node, total, state, name, dt)
            elif hasattr(node, "r"):
                now[name] = _neurons(node, total, state, name, dt)
                spikes.setdefault(name, []).append(now[name])
            else:
                now[name] = _linear(node, total)
        for name, value in now.items():
            state[name, "out"] = value
    fired = {n: torch.stack(s, 1).numpy().astype(bool) for n, s in spikes.items()}
    return fired, torch.stack(outputs, 1).numpy(), {n: state[n, "v"].numpy() for n in spikes}


def _order(graph):
    """Sources first; an edge that closes a loop through neurons is left for the next step."""
    order, waiting = [], list(graph.nodes)
    while waiting:
        for name in waiting:
            sources = [a for a, b in graph.edges if b == name and a in waiting and not _later(graph, a, name)]
            if not sources:
                order.append(name)
                waiting.remove(name)
                break
    return order


def _later(graph, source, name):
    """Whether the edge source -> name brings a population's own spikes back to it."""
    frontier, seen = [name], set()
    while frontier:
        node = frontier.pop()
        for a, b in graph.edges:
            if a == node and b not in seen:
                seen.add(b)
                frontier.append(b)
    return source in seen and hasattr(graph.nodes[name], "r")


def _neurons(node, total, state, name, dt):
    v = state.get((name, "v"), 0.0)
    current = total
    if hasattr(node, "tau_syn"):
        old = state.get((name, "i"), 0.0)
        rate, gain = (torch.from_numpy(np.float64(value)) for value in (dt / node.tau_syn, node.w_in))
        current = old + rate * (gain * total - old)
        state[name, "i"] = current
    r = torch.from_numpy(np.float64(node.r))
    tau = getattr(node, "tau", getattr(node, "tau_mem", None))
    change = dt * r * current if tau is None else dt / torch.from_numpy(np.float64(tau)) * (r * current - v)
    v = v + change
    if not hasattr(node, "v_threshold"):
        state[name, "v"] = v
        return torch.zeros_like(v)
    fired = (v > torch.from_numpy(np.float64(node.v_threshold))).double()
    state[name, "v"] = v * (1 - fired)
    return fired


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
        return x.flatten(1)
    if isinstance(node, nir.Scale):
        return x * torch.from_numpy(np.float64(node.scale))
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
        if node.padding == "same":
            reach = [d * (k - 1) for d, k in zip(node.dilation, weight.shape[2:], strict=True)]
            sides = [side for r in reversed(reach) for side in (r // 2, r - r // 2)]
            return F.conv2d(F.pad(x, sides), weight, bias, 1, 0, tuple(node.dilation), node.groups)
        return F.conv2d(x, weight, bias, tuple(node.stride), tuple(node.padding), tuple(node.dilation), node.groups)
    return F.linear(x, weight, bias)
