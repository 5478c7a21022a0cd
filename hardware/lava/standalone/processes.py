"""The Lava processes around the network under test: one feeds it, the others write down what it does.

Samples follow one another in one run. Layer l (from 0) answers step t of sample n at run step
n T + t + l + 1, counted from 0: every synapse sends what it summed one step earlier.

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


class Source(AbstractProcess):
    """Sends the samples of an .npy file of (samples, steps, ...), then silence.

    With a single step in the file, every sample repeats it.
    """

    def __init__(self, *, shape: tuple[int, ...], path: str, steps: int) -> None:
        super().__init__(shape=shape, path=path, steps=steps)
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
        sample, step = divmod(self.time_step - 1, self.proc_params["steps"])
        frame = np.zeros(shape, np.int32)
        if sample < len(self.samples):
            ours = self.samples[sample, min(step, self.samples.shape[1] - 1)]
            frame[:] = ours.reshape(shape[::-1]).transpose()
        self.s_out.send(frame)


class Sink(AbstractProcess):
    """Keeps one layer's values in an .npy file of (samples, steps, *our shape)."""

    def __init__(self, *, shape: tuple[int, ...], path: str, layer: int) -> None:
        super().__init__(shape=shape, path=path, layer=layer)


class SpikeSink(Sink):
    """Receives the spikes of a layer."""

    def __init__(self, *, shape: tuple[int, ...], path: str, layer: int) -> None:
        super().__init__(shape=shape, path=path, layer=layer)
        self.s_in = InPort(shape=shape)


class StateSink(Sink):
    """Reads a state variable of a layer after every step."""

    def __init__(self, *, shape: tuple[int, ...], path: str, layer: int) -> None:
        super().__init__(shape=shape, path=path, layer=layer)
        self.state = RefPort(shape=shape)


class SinkModel(PyLoihiProcessModel):
    """What both sinks do with the values of a run step."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.record = np.load(parameters["path"], mmap_mode="r+")

    def keep(self, values: Any) -> None:
        """Put the values of this run step where the layer's delay says they belong."""
        samples, steps = self.record.shape[:2]
        sample, step = divmod(self.time_step - 1 - (self.proc_params["layer"] + 1), steps)
        if 0 <= sample < samples:
            self.record[sample, step] = values.transpose().reshape(self.record.shape[2:])


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
