"""The Lava processes around the network under test: some feed it, the others write down what it does.

Samples follow one another in one run, one every `period` steps. A layer answers step t of sample n at run
step n * period + t + stage, counted from 0: every synapse sends what it summed one step earlier. What the
host sends `wait` steps late has the stage `wait`.

Our arrays are (channel, height, width), Lava's (width, height, channel); a transpose turns one into the
other, and leaves flat layers alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


def place(time_step: int, params: Any) -> tuple[int, int] | None:
    """The sample and its step that a layer answers at Lava's `time_step`, which counts from 1; None if none."""
    sample, step = divmod(time_step - 1 - params["stage"], params["period"])
    return (sample, step) if 0 <= sample < params["samples"] and step < params["steps"] else None


def frame(samples: Any, sample: int, step: int, shape: tuple[int, ...]) -> Any:
    """One frame of an input file in Lava's order; with a single step in the file, every sample repeats it."""
    return samples[sample, min(step, samples.shape[1] - 1)].reshape(shape[::-1]).transpose()


class Source(AbstractProcess):
    """Sends the samples of an .npy file of (samples, steps, ...), and silence around them."""

    def __init__(self, *, shape: tuple[int, ...], path: str, **timing: int) -> None:
        super().__init__(shape=shape, path=path, **timing)
        self.s_out = OutPort(shape=shape)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SourceModel(PyLoihiProcessModel):
    """Reads one frame a step from the memory-mapped file."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.samples = np.load(parameters["path"], mmap_mode="r")

    def run_spk(self) -> None:
        """Send the frame of this step."""
        shape = self.proc_params["shape"]
        sent = np.zeros(shape, np.int32)
        at = place(self.time_step, self.proc_params)
        if at is not None:
            sent[:] = frame(self.samples, *at, shape)
        self.s_out.send(sent)


def bias_at(time_step: int, params: Any, samples: Any) -> Any:
    """What the host holds in a layer's bias at a step: the bias, with the input where it is injected.

    Nothing when the layer has no sample to answer, so that it rests until its first one.
    """
    at = place(time_step, params)
    if at is None:
        return np.zeros(params["shape"], np.int32)
    injected = 0 if samples is None else frame(samples, *at, params["shape"])
    return np.asarray(params["bias"] + injected, np.int32)


class Bias(AbstractProcess):
    """Writes a layer's bias at every step; `path` is of the input where that is injected, else empty."""

    def __init__(self, *, shape: tuple[int, ...], bias: Any, path: str, **timing: int) -> None:
        super().__init__(shape=shape, bias=bias, path=path, **timing)
        self.bias = RefPort(shape=shape)


@implements(proc=Bias, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class BiasModel(PyLoihiProcessModel):
    """Writes in the management phase what the next step needs."""

    bias: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.samples = np.load(parameters["path"], mmap_mode="r") if parameters["path"] else None

    def post_guard(self) -> bool:
        """Take part in the management phase of every step."""
        return True

    def run_post_mgmt(self) -> None:
        """Write the bias of the next step."""
        write(self.bias, bias_at(self.time_step + 1, self.proc_params, self.samples))


class Rest(AbstractProcess):
    """Brings a variable back to zero at the end of every period."""

    def __init__(self, *, shape: tuple[int, ...], period: int) -> None:
        super().__init__(shape=shape, period=period)
        self.state = RefPort(shape=shape)


@implements(proc=Rest, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RestModel(PyLoihiProcessModel):
    """Writes in the management phase, after all processes have done their step."""

    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def post_guard(self) -> bool:
        """Take part in the last management phase of a period."""
        return bool(self.time_step % self.proc_params["period"] == 0)

    def run_post_mgmt(self) -> None:
        """Write zeros."""
        write(self.state, np.zeros(self.proc_params["shape"], np.int32))


def write(port: Any, values: Any) -> None:
    """Write a variable and wait until it is written: only an answer to a later message tells."""
    port.write(values)
    port.read()


class Sink(AbstractProcess):
    """Keeps one layer's values in an .npy file of (samples, steps, *our shape)."""

    def __init__(self, *, shape: tuple[int, ...], path: str, **timing: int) -> None:
        super().__init__(shape=shape, path=path, **timing)


class SpikeSink(Sink):
    """Receives the spikes of a layer."""

    def __init__(self, *, shape: tuple[int, ...], path: str, **timing: int) -> None:
        super().__init__(shape=shape, path=path, **timing)
        self.s_in = InPort(shape=shape)


class StateSink(Sink):
    """Reads a state variable of a layer after every step."""

    def __init__(self, *, shape: tuple[int, ...], path: str, **timing: int) -> None:
        super().__init__(shape=shape, path=path, **timing)
        self.state = RefPort(shape=shape)


class SinkModel(PyLoihiProcessModel):
    """What both sinks do with the values of a run step."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.record = np.load(parameters["path"], mmap_mode="r+")

    def keep(self, values: Any) -> None:
        """Put the values of this run step where the layer's stage says they belong."""
        at = place(self.time_step, self.proc_params)
        if at is not None:
            self.record[at] = values.transpose().reshape(self.record.shape[2:])


@implements(proc=SpikeSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SpikeSinkModel(SinkModel):
    """Takes the spikes in the spiking phase."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Keep the spikes of this step."""
        self.keep(self.s_in.recv())


@implements(proc=StateSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class StateSinkModel(SinkModel):
    """Takes the state in the management phase, which comes after all neurons have been updated."""

    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def post_guard(self) -> bool:
        """Take part in the management phase of every step."""
        return True

    def run_post_mgmt(self) -> None:
        """Keep the state at the end of this step."""
        self.keep(self.state.read())
