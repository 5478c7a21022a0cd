"""The forms of an ONNX file in onnxruntime, beside the same network in torch.

    python benchmarks/onnx_forms.py [--steps 8 100] [--batch 1] [--channels 16 16 32 32] [--rounds 20] [--json]

A spiking network of four convolutions with LIF neurons (beta 0.5), two average poolings and a linear read-out, on
random spikes of 28 x 28 pixels. For every number of time steps each form is exported ("unroll" and "integer", one step
of the lowered network, up to 16 steps), and its file, the seconds to export it, the seconds onnxruntime takes to load
it and the milliseconds of a batch are given. A file of one step is called once a step.

Times are printed only if the forms give the same spikes as torch does in double precision, up to a share of 1e-5 that
single precision may turn, and the same among one another; the integer form's are those of the simulated chip, all of
them. The networks take turns in one process; times are medians over the rounds and ratios the median of the rounds'
ratios, with their quartiles. torch computes its logits with time folded into the batch for all but the neurons.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sca_deploy.errors import Mismatch, MissingExtra, ScaDeployError
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.onnx import OnnxExporter
from sca_deploy.exporters.onnx_forms import UNROLL_MAX
from sca_deploy.exporters.onnx_running import INSTALL, describe, run_onnx
from sca_deploy.exporters.onnx_step import LOGITS, X, left
from sca_deploy.graph import to_nir
from sca_deploy.hardware.lower import lower
from sca_deploy.hardware.simulate import simulate
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec, parse_layers
from sca_deploy.probe import probe
from sca_deploy.report.tables import table

SIDE, CLASSES, ACTIVITY = 28, 10, 0.2
TORCH, STEP, INTEGER = "torch", "step", "integer"
WITH_TIME = ("scan", "unroll")
ROUNDING_SHARE = 1e-5
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def network(channels: Sequence[int], steps: int) -> SpikingNetwork:
    """The network with seeded random weights whose batch-norms have seen spikes."""
    layers: list[dict[str, Any]] = []
    for position, width in enumerate(channels):
        layers.append({"type": "conv", "channels": width, "kernel": 3, "padding": 1})
        layers += [{"type": "batch_norm"}, {"type": "lif", "beta": 0.5}]
        if position % 2:
            layers.append({"type": "avg_pool", "kernel": 2})
    layers += [{"type": "flatten"}, {"type": "linear", "features": CLASSES}]
    torch.manual_seed(0)
    made = SpikingNetwork(NetworkSpec((1, SIDE, SIDE), parse_layers(layers, {}), steps)).train()
    with torch.no_grad():
        for seed in range(10):
            made(torch.from_numpy(spikes(16, 4, seed)))
    return made.eval()


def spikes(samples: int, steps: int, seed: int) -> np.ndarray:
    """Random spikes (samples, steps, 1, SIDE, SIDE)."""
    return (np.random.default_rng(seed).random((samples, steps, 1, SIDE, SIDE)) < ACTIVITY).astype(np.uint8)


def forms(steps: int) -> list[str]:
    """The forms that are written for so many steps.

    Head-room for a read-out that adds up many steps would leave the integers of its weights no precision.
    """
    return [STEP, "scan", *(["unroll", INTEGER] if steps <= UNROLL_MAX else [])]


def loaded(path: Path, form: str, x: np.ndarray, threads: int) -> Callable[[], Any]:
    """A function that gives the logits of x, (samples, steps, ...), by the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    over_time = np.ascontiguousarray(x.swapaxes(0, 1), np.int32 if form == INTEGER else np.float32)
    if form in WITH_TIME:
        return lambda: session.run([LOGITS], {X: over_time})[0]
    states = [port for port in session.get_inputs() if port.name != X]
    kinds = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
    zeros = {port.name: np.zeros((len(x), *port.shape[1:]), kinds[port.type]) for port in states}
    wanted = [LOGITS, *(left(name) for name in zeros)]

    def run() -> Any:
        state, logits = zeros, []
        for frame in over_time:
            logit, *after = session.run(wanted, {X: frame, **state})
            state = dict(zip(zeros, after, strict=True))
            logits.append(logit)
        return logits[-1] if form == INTEGER else np.sum(logits, axis=0)

    return run


def export(deployable: Deployable, form: str, folder: Path) -> dict[str, Any]:
    """Write a form; its file, size, operators and the seconds it took."""
    path = folder / f"{form}.onnx"
    started = time.perf_counter()
    OnnxExporter(form).export(deployable, path)
    seconds = time.perf_counter() - started
    found = describe(path)
    return {"path": path, "bytes": found["bytes"], "operators": found["operators"], "export_seconds": seconds}


def check(deployable: Deployable, x: np.ndarray, written: dict[str, dict[str, Any]]) -> dict[str, int]:
    """How many spikes were compared and how many of them single precision turned.

    Raises:
        Mismatch: if a form computes anything else.
    """
    expected = deployable.probe.spikes
    compared = sum(values.size for values in expected.values())
    results = {form: run_onnx(row["path"], x) for form, row in written.items()}
    if INTEGER in results:
        chip = simulate(deployable.lowered, x, record=("spikes",)).records
        for name, values in results.pop(INTEGER)[1].items():
            if not np.array_equal(values, chip[name]["spikes"]):
                raise Mismatch(f"the integer form gives other spikes of '{name}' than the simulated chip")
    turned = sum(int(np.sum(results[STEP][1][name] != values)) for name, values in expected.items())
    if turned > ROUNDING_SHARE * compared:
        raise Mismatch(f"{turned:,} of {compared:,} spikes are not torch's")
    for form, (logits, found) in results.items():
        same = all(np.array_equal(found[name], values) for name, values in results[STEP][1].items())
        if not (same and np.array_equal(logits, results[STEP][0])):
            raise Mismatch(f"the form '{form}' gives other values than '{STEP}'")
    return {"spikes_compared": compared, "spikes_turned": turned}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Files and times of every form, for every number of steps."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure_steps(steps, options, Path(folder)) for steps in options.steps]
    return {
        "batch": options.batch,
        "channels": options.channels,
        "threads": options.threads,
        "rounds": options.rounds,
        "clock": options.clock,
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        "runs": runs,
    }


def measure_steps(steps: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Files and times of every form for so many steps."""
    model, x = network(options.channels, steps), spikes(options.batch, steps, 1)
    graph = to_nir(model)
    dt = float(graph.metadata["dt"])
    program = lower(graph, dt=dt, steps=steps, input_bits=0) if INTEGER in forms(steps) else None
    deployable = Deployable(graph, dt, program, probe(model, x), title="four convolutions")
    OnnxExporter().export(deployable, folder / "first.onnx")  # what is loaded on first use does not count
    written = {form: export(deployable, form, folder) for form in forms(steps)}
    checked = check(deployable, x, written)
    runners: dict[str, Callable[[], Any]] = {}
    for form, row in written.items():
        started = time.perf_counter()
        runners[form] = loaded(row["path"], form, x, options.threads)
        row["load_seconds"] = time.perf_counter() - started
    tensor = torch.from_numpy(x)

    def eager() -> torch.Tensor:
        with torch.inference_mode():
            return model(tensor)

    seconds = take_turns(runners | {TORCH: eager}, CLOCKS[options.clock], options.rounds)
    rows = {form: row | _times(seconds[form], seconds[TORCH]) for form, row in ({TORCH: {}} | written).items()}
    for row in rows.values():
        row.pop("path", None)
    return {"steps": steps, **checked, "forms": rows}


def take_turns(
    runners: dict[str, Callable[[], Any]], clock: Callable[[], float], rounds: int
) -> dict[str, list[float]]:
    """The seconds of every runner in every round, after two that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 2):
        for name, runner in runners.items():
            started = clock()
            runner()
            seconds[name].append(clock() - started)
    return {name: values[2:] for name, values in seconds.items()}


def _times(seconds: list[float], reference: list[float]) -> dict[str, Any]:
    ratios = [mine / theirs for mine, theirs in zip(seconds, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"seconds": statistics.median(seconds), "ratio": {"low": low, "median": middle, "high": high}}


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = []
    for run in result["runs"]:
        for form, row in run["forms"].items():
            ratio = row["ratio"]
            file = ("", "", "", "")
            if form != TORCH:
                seconds = (f"{row['export_seconds']:.2f}", f"{row['load_seconds']:.2f}")
                file = (f"{row['bytes'] / 1024:,.0f}", f"{row['operators']:,}", *seconds)
            spread = "" if form == TORCH else f"{ratio['median']:.2f}  ({ratio['low']:.2f} to {ratio['high']:.2f})"
            rows.append((f"T = {run['steps']}", form, *file, f"{1000 * row['seconds']:.2f}", spread))
    turned = ", ".join(f"{run['spikes_turned']:,} of {run['spikes_compared']:,}" for run in result["runs"])
    head = ("", "form", "KiB", "operators", "s to export", "s to load", "ms a batch", f"time / {TORCH}")
    note = (
        f"measured, {result['clock']} time; batch {result['batch']}, channels {result['channels']}, "
        f"{result['threads']} thread(s), median of {result['rounds']} rounds (quartiles); "
        f"spikes that single precision turned: {turned}"
    )
    return table(head, rows, note)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 100])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--channels", type=int, nargs=4, default=[16, 16, 32, 32])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use too")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    try:
        if find_spec("onnxruntime") is None:
            raise MissingExtra("running an ONNX file needs the onnxruntime package", INSTALL)
        result = measure(options)
    except ScaDeployError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2) if options.json else text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
