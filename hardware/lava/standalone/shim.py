"""What lava-nc 0.10.0 and lava-dl 0.6.0 need in order to run a network on Python 3.10 to 3.13, and to fail in words.

Both are archived, so the list is final. Only the worker applies it, before its first Lava import;
the arithmetic of synapses and neurons stays Lava's.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import multiprocessing
import os
import sys
import traceback
import types
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux shows shared-memory segments as files."""


def apply(segments: str, error: str) -> None:
    """Make Lava, and `lava.lib.dl.netx.hdf5` where it is installed, importable and usable in this process.

    Args:
        segments: what the names of all shared-memory segments start with, so that whoever ends this
            process can tell them from everybody else's.
        error: what the line starts with by which a failing Lava process says why, on standard error.
    """
    _import_var_model()
    _stub_slayer()
    _reshape_by_position()
    _find_models_beside_processes()
    _widen_convolution_geometry()
    _name_segments(segments)
    _report_failures(error)


def _import_var_model() -> None:
    """Import the one Lava module that Python 3.11 refuses.

    `CoreEncoder.x: ByteEncoder = ByteEncoder()` is a default without a hash, which Python 3.11 takes for a
    mutable default and refuses. The class is given identity hashes; nothing here compares or hashes one.
    """
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        made = original(cls, **options)
        if getattr(made, "__name__", "") == "ByteEncoder":
            made.__hash__ = object.__hash__
        return made

    vars(dataclasses)["dataclass"] = dataclass
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        vars(dataclasses)["dataclass"] = original


def _stub_slayer() -> None:
    """Stand in for what netx imports for resonate-and-fire neurons and torch modules only.

    The real modules pull in torch, torchvision and OpenCV.
    """
    names = ("slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules")
    stubs = {name: types.ModuleType(f"lava.lib.dl.{name}") for name in names}
    vars(stubs["slayer.neuron.rf"])["neuron_params"] = _no_resonators
    sys.modules.update({stub.__name__: stub for stub in stubs.values()})


def _no_resonators(*_: object) -> None:
    raise NotImplementedError("resonate-and-fire neurons are not loaded by this worker")


def _reshape_by_position() -> None:
    """NumPy 2.4 removed the keyword that Lava's ReshapePort passes (`newshape`)."""
    ports = importlib.import_module("lava.magma.core.process.ports.ports")
    ports.ReshapePort.get_transform_func_fwd = lambda port: functools.partial(_reshape, port.shape)
    ports.ReshapePort.get_transform_func_bwd = lambda port: functools.partial(_reshape, port.old_shape)


def _reshape(shape: tuple[int, ...], values: Any) -> Any:
    return values.reshape(shape)


def _widen_convolution_geometry() -> None:
    """Lava keeps a convolution's geometry in 8 bits, in which NumPy 2 computes sizes: 128 pixels overflow."""
    utils = importlib.import_module("lava.proc.conv.utils")
    convolve = utils.conv

    def conv(x: Any, weight: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
        sides = [tuple(map(int, pair)) for pair in (kernel, stride, padding, dilation)]
        return convolve(x, weight, *sides, int(groups))

    vars(utils)["conv"] = conv


def _find_models_beside_processes() -> None:
    """Look for a process's models where they are, in its own module and in `models` beside it.

    Lava executes every file of the process's folder instead, which imports torch again and takes longer
    than most runs.
    """
    graphs = importlib.import_module("lava.magma.compiler.compiler_graphs").ProcGroupDiGraphs

    def find(proc: Any) -> list[Any]:
        own = sys.modules[proc.__module__]
        modules = [own]
        beside = f"{own.__package__}.models"
        if own.__package__ and importlib.util.find_spec(beside):
            modules.append(importlib.import_module(beside))
        models = [model for module in modules for model in graphs._find_proc_models_in_module(proc, module)]
        if not models:
            raise LookupError(f"no model found for the Lava process {type(proc).__name__}")
        return models

    graphs._find_proc_models = staticmethod(find)


def _name_segments(prefix: str) -> None:
    """Give Lava's shared-memory segments names that start with `prefix`; they are random otherwise."""

    class NamedSegments:
        def __init__(self) -> None:
            self.segments: list[SharedMemory] = []

        def start(self) -> None:
            """Nothing to start: the segments belong to this process, not to a manager process."""

        def create_shared_memory(self, size: int) -> SharedMemory:
            try:
                self.segments.append(SharedMemory(f"{prefix}{len(self.segments)}", create=True, size=size))
                _reserve(self.segments[-1])
            except OSError as error:
                raise OSError(
                    f"no room for another {size} bytes of shared memory ({error.strerror}; see df {SHARED_MEMORY})"
                ) from error
            return self.segments[-1]

        def shutdown(self) -> None:
            for segment in self.segments:
                segment.unlink()

    infrastructure = importlib.import_module("lava.magma.runtime.message_infrastructure.multiprocessing")
    vars(infrastructure)["SharedMemoryManager"] = NamedSegments


def _reserve(segment: SharedMemory) -> None:
    """Take a segment's memory now: where it runs out only when it is written to, the writer dies of SIGBUS."""
    path = SHARED_MEMORY / segment.name
    if path.exists():
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, segment.size)


def _report_failures(prefix: str) -> None:
    """Let a failing Lava process say so on standard error; Lava keeps it to itself, and waits."""
    infrastructure = importlib.import_module("lava.magma.runtime.message_infrastructure.multiprocessing")

    def run(process: multiprocessing.Process) -> None:
        try:
            multiprocessing.Process.run(process)
        except Exception as error:
            traceback.print_exc()
            print(f"{prefix}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            sys.exit(1)

    infrastructure.SystemProcess.run = run
