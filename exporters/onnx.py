"""ONNX: the network with its states, one time step or all of them, for onnxruntime and compilers.

The model is written operator by operator from the NIR graph (`onnx_writing`, `onnx_neurons`), in one of the forms of
`onnx_forms`, or from the integer Program (`onnx_integer`). It is checked by ONNX's own strict checker, sealed
(`onnx_seal`) and run (`onnx_running`).

Of the default form, one step, the caller feeds `x` and zeros as every state `S`, takes `S_out` to the next step and
sums `logits`. The batch size is left open; writing one step keeps the file small for any number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sca_deploy import __version__
from sca_deploy.errors import Mismatch, ScaDeployError, UsageError, unknown_name
from sca_deploy.exporters.base import Check, Deployable, Exported, Probe
from sca_deploy.exporters.onnx_running import FORM, RANGE, READOUT, run_onnx
from sca_deploy.exporters.onnx_seal import sealed
from sca_deploy.files import atomic_path
from sca_deploy.hardware.dynamics import Dynamics

if TYPE_CHECKING:
    import onnx

    from sca_deploy.hardware.program import Program

OPSET = 17
IR_VERSION = 8
ROUNDING_SHARE = 1e-4
"""A spike whose potential comes within single precision of the threshold may turn, and a close prediction with it.
In convolutional networks of 58 to 72 million spikes fewer than one in a million did."""

Array = npt.NDArray[Any]


class OnnxExporter:
    """Writes `.onnx` files.

    Args:
        form: "step", "scan" or "unroll", see `onnx_forms`; "integer" for one step of the integer network.

    Raises:
        UsageError: if there is no such form.
    """

    name = "onnx"
    summary = "ONNX model for onnxruntime and compilers: one step, a loop over time, all steps, or the chip's integers"
    suffix = ".onnx"
    probes = True

    def __init__(self, form: str = "step") -> None:
        if form not in _FORMS:
            raise unknown_name("form", form, _FORMS)
        self.form = form
        self.integers = form == "integer"

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write the model, check it, and run the probe through onnxruntime where that is installed.

        Raises:
            UsageError: if more steps would be written out than are sensible.
            ScaDeployError: if the graph has a node ONNX is not written for, or the file cannot be written.
            Mismatch: if onnxruntime and the float network predict different classes for a probe sample and
                rounding does not account for it; if it and the simulated chip differ in any integer.
        """
        model = build_model(deployable, self.form)
        with atomic_path(output) as temporary:
            temporary.write_bytes(sealed(model))
            written = _check_file(temporary, output.name)
            run = _check_integers(temporary, deployable) if self.integers else _check_run(temporary, deployable.probe)
        return Exported(self.name, output, (written, run))


def build_model(deployable: Deployable, form: str = "step") -> onnx.ModelProto:
    """The ONNX model of `deployable.graph`, or for the integer form of its Program.

    Raises:
        UsageError: if more steps would be written out than are sensible.
        ScaDeployError: naming the node that cannot be written.
    """
    from onnx import helper

    title = "".join(c if c.isalnum() else "_" for c in deployable.title)
    graph, doc, properties = _FORMS[form](deployable, title)
    model = helper.make_model(
        graph,
        producer_name="sca-deploy",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=f"{deployable.title}. {doc}",
    )
    helper.set_model_props(model, _properties(deployable) | {FORM: form, READOUT: "sum"} | properties)
    return model


def _dynamics(deployable: Deployable) -> Dynamics:
    return deployable.dynamics or Dynamics(deployable.dt)


def _properties(deployable: Deployable) -> dict[str, str]:
    """The metadata all forms share, as strings."""
    recorded = deployable.graph.metadata | _dynamics(deployable).metadata()
    versions = {"sca-deploy": __version__, "onnx": version("onnx")}
    return {key: str(value) for key, value in recorded.items()} | {
        "title": deployable.title,
        "versions": json.dumps(versions),
        "manifest": json.dumps(dict(deployable.manifest), allow_nan=False),
    }


Written = tuple["onnx.GraphProto", str, dict[str, str]]
"""A graph, how to use it, and metadata of its own."""
_REPEAT = (
    "Feed zeros as every state 'S' before the first time step and 'S_out' afterwards; "
    "the prediction is the largest sum of 'logits' over the time steps."
)
_AT_ONCE = "Feed all time steps; the prediction is the largest of 'logits'."


def _step(deployable: Deployable, title: str) -> Written:
    from sca_deploy.exporters.onnx_forms import as_step
    from sca_deploy.exporters.onnx_writing import float_step

    return as_step(float_step(deployable.graph, _dynamics(deployable)), title), _REPEAT, {}


def _scan(deployable: Deployable, title: str) -> Written:
    from sca_deploy.exporters.onnx_forms import as_scan
    from sca_deploy.exporters.onnx_writing import float_step

    return as_scan(float_step(deployable.graph, _dynamics(deployable)), title), _AT_ONCE, {}


def _unroll(deployable: Deployable, title: str) -> Written:
    from sca_deploy.exporters.onnx_forms import as_unrolled
    from sca_deploy.exporters.onnx_writing import float_step

    known = deployable.graph.metadata.get("T", deployable.probe.x.shape[1] if deployable.probe else None)
    if not str(known).isdigit():
        raise UsageError("how many steps are to be written out is not known", "use --form scan")
    steps = int(str(known))
    step = float_step(deployable.graph, _dynamics(deployable))
    return as_unrolled(step, title, steps), _AT_ONCE, {"T": str(steps)}


def _integer(deployable: Deployable, title: str) -> Written:
    from sca_deploy.exporters.onnx_forms import as_step
    from sca_deploy.exporters.onnx_integer import integer_step

    program = deployable.lowered
    doc = "Feed zeros as every state 'S' before the first time step and 'S_out' afterwards; " + (
        "the prediction is the largest of the last step's 'logits'."
        if program.readout
        else "the prediction is the largest sum of 'logits' over the time steps."
    )
    own = {READOUT: "last" if program.readout else "sum", "T": str(program.steps), "reset": "hard"}
    own |= {RANGE: json.dumps([program.input_min, program.input_max])}
    return as_step(integer_step(program), title), doc, own


_FORMS: dict[str, Callable[[Deployable, str], Written]] = {
    "step": _step,
    "scan": _scan,
    "unroll": _unroll,
    "integer": _integer,
}


def _check_file(path: Path, name: str) -> Check:
    """Check operators, types and shapes of a written file with ONNX's own strict checker."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ScaDeployError(f"ONNX's checker refuses the network: {reason}") from error
    return Check(f"onnx checker on {name}", None, f"operators, types and shapes hold, opset {OPSET}")


def _check_run(path: Path, probe: Probe | None) -> Check:
    """Run the probe through onnxruntime and compare with the float network."""
    if probe is None:
        return Check("onnxruntime", None, "not run: there is no probe batch")
    if find_spec("onnxruntime") is None:
        return Check("onnxruntime", None, "not run: onnxruntime is not installed")
    logits, spikes = run_onnx(path, probe.x)
    if spikes.keys() != probe.spikes.keys():
        raise Mismatch(f"the file has neurons {sorted(spikes)}, the probe {sorted(probe.spikes)}")
    # A probe may say how often neurons fire, or only whether.
    differing = sum(int(np.sum(spikes[n].astype(probe.spikes[n].dtype) != probe.spikes[n])) for n in spikes)
    total = sum(array.size for array in spikes.values())
    difference = float(np.max(np.abs(logits - probe.logits), initial=0.0))
    wrong = int(np.sum(_predicts_otherwise(logits, np.asarray(probe.logits))))
    counted = f"{differing:,} of {total:,} spikes differ"
    by_rounding = 0 < differing <= ROUNDING_SHARE * total
    if not np.isfinite(logits).all() or (wrong and not by_rounding):
        raise Mismatch(
            f"onnxruntime predicts otherwise for {wrong} of {len(logits)} probe samples; "
            f"logits differ by up to {difference:g}, {counted}"
        )
    verdict = f"{wrong} of {len(logits)} predictions turn with them" if wrong else "predictions agree"
    return Check(f"{len(logits)} samples in onnxruntime", difference, f"{counted}, {verdict}")


def _check_integers(path: Path, deployable: Deployable) -> Check:
    """Run the probe, or random input where there is none, and compare every integer with the simulated chip."""
    from sca_deploy.hardware.simulate import simulate

    if find_spec("onnxruntime") is None:
        return Check("onnxruntime", None, "not run: onnxruntime is not installed")
    program, probe = deployable.lowered, deployable.probe
    x = _random_input(program) if probe is None else np.rint(probe.x).astype(np.int64)
    expected = simulate(program, x, record=("spikes",))
    logits, spikes = run_onnx(path, x)
    compared, differing = 0, 0
    for name, records in expected.records.items():
        compared += spikes[name].size
        differing += int(np.sum(spikes[name] != records["spikes"]))
    if expected.readout is not None:
        compared += logits.size
        differing += int(np.sum(logits.reshape(len(x), -1) != expected.readout))
    if differing:
        raise Mismatch(f"onnxruntime and the simulated chip differ in {differing:,} of {compared:,} integers")
    return Check(f"{len(x)} samples in onnxruntime", 0.0, f"{compared:,} integers are those of the simulated chip")


def _random_input(program: Program) -> npt.NDArray[np.int64]:
    """Two samples of whatever the Program may be given."""
    low, high = np.array(program.input_min), np.array(program.input_max)
    for layer in program.layers:
        if layer.injected:  # where the input adds to the bias, both together are in range
            low, high = np.maximum(low, low - layer.full_bias()), np.minimum(high, high - layer.full_bias())
    return np.random.default_rng(0).integers(low, high + 1, (2, program.steps, *program.input_shape))


def _predicts_otherwise(logits: Array, reference: Array) -> npt.NDArray[np.bool_]:
    """Whether each sample's largest logit falls on a class the reference does not hold largest.

    Classes the reference itself separates by no more than rounding are one prediction.
    """
    best = reference.max(axis=1)
    chosen = np.take_along_axis(reference, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    otherwise: npt.NDArray[np.bool_] = best - chosen > 1e-5 * np.maximum(1.0, np.abs(reference).max(axis=1))
    return otherwise
