"""`simulate`: one network, one input file, and the engine that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sca_deploy import recording
from sca_deploy.artifact import Artifact, open_artifact
from sca_deploy.console import Console
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.onnx_running import run_onnx
from sca_deploy.hardware.dynamics import RESETS
from sca_deploy.hardware.float_graph import plan
from sca_deploy.hardware.simulate import Records, simulate

Input = npt.NDArray[np.generic]


def on_chip(artifact: Artifact, path: Path, record: Sequence[str], output: Path, console: Console) -> dict[str, Any]:
    """Run samples in the chip's integers; writes `output` and says what was counted."""
    x = recording.load_input(path, artifact.program.input_shape)
    with console.progress("simulate", len(x)) as advance:
        result = simulate(artifact.program, x, record=record, progress=lambda n: advance(n, "samples"))
    recording.save(output, result)
    return {"engine": "chip", "label": "simulated", **recording.summary(result)}


def in_floats(artifact: Artifact, path: Path, record: Sequence[str], output: Path, console: Console) -> dict[str, Any]:
    """Run samples through the graph in double precision; writes `output`, named by the graph's nodes.

    Where nothing says how the neurons reset, both ways are run: if what is recorded is the same, it does not matter.

    Raises:
        UsageError: if it matters, or another thing that nothing says.
        ScaDeployError: if there is no graph of floats, or the input does not fit it.
    """
    try:
        x, records = _recorded(artifact, path, record, console)
    except UsageError as asking:
        if artifact.reading.reset is not None or artifact.reading.preset is not None:
            raise
        x, records = _either_way(artifact, path, record, console, asking)
    recording.save_records(output, records)
    return {"engine": "float", "label": "measured", **recording.spike_summary(records, x)}


def _recorded(artifact: Artifact, path: Path, record: Sequence[str], console: Console) -> tuple[Input, Records]:
    graph = artifact.graph
    if graph is None:
        raise ScaDeployError(f"{artifact.path} holds integers only", "leave --engine float out")
    walk = plan(graph)
    x = recording.load_input(path, walk.shapes[walk.input])
    with console.progress("simulate", len(x)) as advance:
        return x, recording.float_records(graph, artifact.dynamics, x, record, lambda n: advance(n, "samples"))


def _either_way(
    artifact: Artifact, path: Path, record: Sequence[str], console: Console, asking: UsageError
) -> tuple[Input, Records]:
    """What is recorded with either reset, if that is the same."""
    found = []
    for reset in RESETS:
        said = replace(artifact.reading, reset=reset)
        try:
            found.append(_recorded(open_artifact(artifact.path, said), path, record, console))
        except UsageError:
            raise asking from None  # something else is missing as well
    (x, hard), (_, subtract) = found
    pairs = [(values, subtract[name][what]) for name, whats in hard.items() for what, values in whats.items()]
    differing = sum(int((a != b).sum()) for a, b in pairs)
    if differing:
        total = sum(a.size for a, _ in pairs)
        raise UsageError(
            f"{artifact.path} says no reset, and it matters: {differing:,} of {total:,} recorded values depend on it",
            asking.fix,
        ) from asking
    console.say(f"{artifact.path} says no reset; what is recorded is the same with either")
    return x, hard


def in_onnxruntime(
    source: Path, path: Path, engine: str | None, record: Sequence[str], output: Path, flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Run samples through an .onnx file that `export` wrote; writes `output`.

    Raises:
        UsageError: if something is asked for that the file does not leave open.
    """
    given = [f"--{key.replace('_', '-')}" for key, value in flags.items() if value is not None]
    given += ["--engine"] * (engine is not None)
    if given:
        raise UsageError(f"{source} is run by onnxruntime as it is", f"leave {given[0]} out")
    if list(record) != ["spikes"]:
        raise UsageError(f"an .onnx file gives spikes, not {', '.join(record)}", "give --record spikes")
    x = recording.load_input(path)
    records = {name: {"spikes": spikes} for name, spikes in run_onnx(source, x)[1].items()}
    recording.save_records(output, records)
    return {"engine": "onnxruntime", "label": "measured", **recording.spike_summary(records, x)}
