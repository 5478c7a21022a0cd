"""The exported networks as Lava processes, fed by a host.

A network whose spikes outlive a sample (delays, recurrence) cannot be brought to rest by its neurons alone:
here its samples are a whole network apart, and at the end of each one every state is set to zero, those
of the synapses included.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import processes
from lava.magma.core.process.process import ProcessServer

STATES = {"u", "v", "a_buf", "a_buff"}
"""What neurons and synapses remember from step to step."""


def load_net(job: dict[str, Any], input_path: str) -> list[Any]:
    """The network of a .net file with its input; returns its neurons, layer by layer."""
    from lava.lib.dl.netx import hdf5

    # A reset that reaches a layer at its stage gives every sample a fresh start; netx counts on from the first.
    network = hdf5.Network(
        net_config=job["network"],
        reset_interval=None if job["carries"] else job["steps"],
        reset_offset=job["stages"][0],
        input_message_bits=job["input_bits"],
    )
    neurons = [block.neuron for block in network.layers]
    for index in job["host"]:
        variable = neurons[index].bias_mant
        # What netx calls the transform of an input block is for the host, who has applied it to the input.
        params = bias_params(job, index, np.broadcast_to(variable.init, variable.shape), input_path)
        variable.init = first_bias(params)
        processes.Bias(**params).bias.connect_var(variable)
    if not job["injected"]:
        source(job, tuple(map(int, network.inp.shape)), 0, input_path).s_out.connect(network.inp)
    bring_to_rest(job)
    return neurons


def load_processes(job: dict[str, Any], input_path: str) -> list[Any]:
    """The network of an exported network.py with its input; returns its neurons, layer by layer."""
    module = imported(job["network"])
    module.STEPS = job["steps"]
    host = getattr(module, "HOST", {})
    names = [list(module.STAGES)[index] for index in job["host"]]
    if names != list(host):
        raise ValueError(f"the host writes the biases of {names}, the exported file leaves {list(host)} to it")
    biases = {
        name: bias_params(job, index, module.bias(name, host[name]), input_path)
        for index, name in zip(job["host"], names, strict=True)
    }
    arguments: dict[str, Any] = {}
    if waits := getattr(module, "INPUT_WAITS", ()):
        shape = tuple(module.INPUT_SHAPE[::-1])
        arguments["spikes"] = {wait: source(job, shape, wait, input_path).s_out for wait in waits}
    if host:
        arguments["biases"] = {name: first_bias(params) for name, params in biases.items()}
    layers = module.build(**arguments)
    for name, params in biases.items():
        processes.Bias(**params).bias.connect_var(layers[name].bias_mant)
    bring_to_rest(job)
    return list(layers.values())


def imported(path: str) -> Any:
    """The module in a file that is not on the path."""
    spec = importlib.util.spec_from_file_location("network", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(job: dict[str, Any], shape: tuple[int, ...], wait: int, path: str) -> Any:
    """The process that sends the input `wait` steps late."""
    return processes.Source(shape=shape, path=path, **timing(job, wait))


def timing(job: dict[str, Any], stage: int) -> dict[str, int]:
    """When the samples of a job pass a stage."""
    return {what: job[what] for what in ("samples", "steps", "period")} | {"stage": stage}


def bias_params(job: dict[str, Any], index: int, bias: Any, path: str) -> dict[str, Any]:
    """What the process that writes a layer's bias is made with."""
    injected = path if index in job["injected"] else ""
    return {"shape": tuple(map(int, bias.shape)), "bias": bias, "path": injected, **timing(job, job["stages"][index])}


def first_bias(params: dict[str, Any]) -> Any:
    """A layer's bias at the first step, which no process can write in time."""
    return processes.bias_at(1, params, np.load(params["path"], mmap_mode="r") if params["path"] else None)


def bring_to_rest(job: dict[str, Any]) -> None:
    """Have all states zeroed at the end of every period, where neurons do not do that for themselves."""
    if not job["carries"]:
        return
    variables = [variable for process in list(ProcessServer().processes) for variable in process.vars]
    for variable in variables:
        if variable.name in STATES:
            shape = tuple(map(int, variable.shape))
            processes.Rest(shape=shape, period=job["period"]).state.connect_var(variable)
