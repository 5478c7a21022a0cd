"""The forms of a file: one step for the caller to repeat, a loop over time, or all steps written out.

    step    x (batch, *shape) and every state in, logits, what is recorded and every state out; the caller loops
    scan    ONNX's Scan over x (steps, batch, *shape), both sizes open, states zero at first
    unroll  up to 16 steps one after another, x (T, batch, *shape)

Outputs have the same names in all forms: `logits`, which scan and unroll sum over time in the order of time, as the
caller of a step does, and what is recorded, (steps, batch, *shape) where the form knows time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sca_deploy.errors import UsageError
from sca_deploy.exporters.onnx_step import LOGITS, OneStep, Port, X, left

if TYPE_CHECKING:
    import onnx

    Constants = dict[str, onnx.TensorProto]

UNROLL_MAX = 16
"""Steps that may be written out: the file and the time to load it grow with every one."""
BATCH, STEPS = "batch", "steps"
SUM = "sum"


def as_step(step: OneStep, title: str) -> onnx.GraphProto:
    """One time step with explicit states, of any batch."""
    from onnx import helper

    states_left = [state.out for state in step.states]
    known = {port.name for port in states_left}
    recorded = [port for port in step.recorded if port.name not in known]
    return helper.make_graph(
        step.nodes,
        title,
        [port.declared(BATCH) for port in (step.x, *step.states)],
        [port.declared(BATCH) for port in (step.logits, *recorded, *states_left)],
        list(step.constants.values()),
        doc_string="One time step of a spiking network.",
    )


def as_scan(step: OneStep, title: str) -> onnx.GraphProto:
    """All time steps as a Scan, any number of them and any batch."""
    from onnx import helper

    states = {state.name: state for state in step.states} | {SUM: step.logits}
    zeros, start, constants = _rest(states.values())
    each = [f"each/{port.name}" for port in step.recorded]  # an output of a loop is either a state or recorded
    nodes = _copied(step, "body/", {})
    nodes += [helper.make_node("Add", [f"body/{SUM}", f"body/{LOGITS}"], [f"body/{left(SUM)}"])]
    nodes += [
        helper.make_node("Identity", [f"body/{port.name}"], [name])
        for port, name in zip(step.recorded, each, strict=True)
    ]
    entering = [port.declared(BATCH, name=f"body/{name}") for name, port in states.items()]
    leaving = [port.out.declared(BATCH, name=f"body/{left(name)}") for name, port in states.items()]
    leaving += [port.declared(BATCH, name=name) for port, name in zip(step.recorded, each, strict=True)]
    body = helper.make_graph(nodes, "step", [*entering, step.x.declared(BATCH, name=f"body/{X}")], leaving)
    outputs = [*(f"last/{state.name}" for state in step.states), LOGITS, *(port.name for port in step.recorded)]
    scan = helper.make_node("Scan", [*zeros, X], outputs, name="time", body=body, num_scan_inputs=1)
    return helper.make_graph(
        [*start, scan],
        title,
        [step.x.declared(STEPS, BATCH)],
        [step.logits.declared(BATCH), *(port.declared(STEPS, BATCH) for port in step.recorded)],
        # The body reads the weights from outside.
        [*step.constants.values(), *constants.values()],
        doc_string="A spiking network over time.",
    )


def as_unrolled(step: OneStep, title: str, steps: int) -> onnx.GraphProto:
    """So many time steps one after another, of any batch.

    Raises:
        UsageError: if there are more steps than 16, or none.
    """
    from onnx import helper, numpy_helper

    if not 1 <= steps <= UNROLL_MAX:
        raise UsageError(f"{steps} steps would be written out, at most {UNROLL_MAX} are", "use --form scan")
    zeros, nodes, constants = _rest(step.states)
    constants["axis0"] = numpy_helper.from_array(np.array([0]), "axis0")
    states = dict(zip((state.name for state in step.states), zeros, strict=True))
    total = ""
    for t in range(steps):
        constants[f"t{t}"] = numpy_helper.from_array(np.array(t), f"t{t}")
        nodes.append(helper.make_node("Gather", [X, f"t{t}"], [f"t{t}/{X}"], axis=0))
        nodes += _copied(step, f"t{t}/", states)
        states = {state.name: f"t{t}/{left(state.name)}" for state in step.states}
        last = LOGITS if t == steps - 1 else f"t{t}/{SUM}"
        kind, terms = ("Add", [total, f"t{t}/{LOGITS}"]) if total else ("Identity", [f"t{t}/{LOGITS}"])
        nodes.append(helper.make_node(kind, terms, [last]))
        total = last
    for port in step.recorded:
        each = [f"t{t}/{port.name}" for t in range(steps)]
        nodes += [helper.make_node("Unsqueeze", [name, "axis0"], [f"{name}/row"]) for name in each]
        nodes.append(helper.make_node("Concat", [f"{name}/row" for name in each], [port.name], axis=0))
    return helper.make_graph(
        nodes,
        title,
        [step.x.declared(steps, BATCH)],
        [step.logits.declared(BATCH), *(port.declared(steps, BATCH) for port in step.recorded)],
        [*step.constants.values(), *constants.values()],
        doc_string=f"{steps} time steps of a spiking network.",
    )


def _copied(step: OneStep, prefix: str, given: Mapping[str, str]) -> list[onnx.NodeProto]:
    """The operators of a step with every value's name changed: to that given, else prefixed; constants are shared."""
    import onnx

    def named(value: str) -> str:
        return value if value in step.constants else given.get(value, prefix + value)

    copies = []
    for node in step.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [named(value) for value in node.input]
        copy.output[:] = [named(value) for value in node.output]
        copies.append(copy)
    return copies


def _rest(ports: Iterable[Port]) -> tuple[list[str], list[onnx.NodeProto], Constants]:
    """Zeros of the shape (batch, *shape) of every port: their names, and the operators and constants that give them."""
    from onnx import TensorProto, helper, numpy_helper

    arrays = {"first": [1], "second": [2]}
    nodes = [
        helper.make_node("Shape", [X], ["sizes"]),
        helper.make_node("Slice", ["sizes", "first", "second"], ["batch-size"]),
    ]
    names = []
    for port in ports:
        name = f"rest/{port.name}"
        arrays[f"{name}/shape"] = list(port.shape)
        zero = helper.make_tensor("zero", TensorProto.DataType.Value(port.kind), [1], [0])
        nodes.append(helper.make_node("Concat", ["batch-size", f"{name}/shape"], [f"{name}/sizes"], axis=0))
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}/sizes"], [name], value=zero))
        names.append(name)
    constants = {n: numpy_helper.from_array(np.array(sizes, np.int64), n) for n, sizes in arrays.items()}
    return names, nodes, constants
