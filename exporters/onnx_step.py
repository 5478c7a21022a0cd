"""One time step in ONNX operators: what it is given, what it gives, and what it remembers.

Every form of a file is made of one `OneStep`. It reads `x` and the states as the step before left them, and gives the
values worth recording, the read-out, and every state `S` as the next step finds it, called `S_out`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
X, LOGITS = "x", "logits"


def left(state: str) -> str:
    """What a state is called as a step leaves it."""
    return f"{state}_out"


@dataclass(frozen=True)
class Port:
    """A value that crosses the border of a step.

    Args:
        shape: of one sample at one step.
        kind: the name of ONNX's element type.
        doc: what the value is.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    doc: str

    def declared(self, *leading: int | str, name: str | None = None) -> onnx.ValueInfoProto:
        """The declaration of an input or output of shape (*leading, *shape)."""
        from onnx import TensorProto, helper

        element = TensorProto.DataType.Value(self.kind)
        return helper.make_tensor_value_info(name or self.name, element, [*leading, *self.shape], doc_string=self.doc)

    @property
    def out(self) -> Port:
        """A state as the step leaves it."""
        doc = self.doc.replace("before this time step; zeros at first", "after this time step")
        return Port(left(self.name), self.shape, self.kind, doc)


@dataclass
class OneStep:
    """The operators of a time step, in order, and its borders.

    Args:
        x: the input of the step.
        logits: the read-out of the step, which an operator must give.
        states: what the step before left, zeros at first; an operator gives `<state>_out` of each.
        recorded: what is worth recording at every step; the outputs of operators.
    """

    x: Port
    logits: Port
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    states: list[Port] = field(default_factory=list)
    recorded: list[Port] = field(default_factory=list)

    def operator(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append an ONNX operator; returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Store a constant of the network; returns its name."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, dtype).reshape(np.shape(value))  # ascontiguousarray makes 0-d 1-d
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def state(self, name: str, shape: tuple[int, ...], what: str, kind: str = "FLOAT") -> str:
        """Declare what the step before left; returns its name. An operator must give `left(name)`."""
        self.states.append(Port(name, shape, kind, f"{what} before this time step; zeros at first"))
        return name

    def record(self, name: str, shape: tuple[int, ...], doc: str, kind: str) -> str:
        """Declare a value worth recording; returns its name, which an operator must give."""
        self.recorded.append(Port(name, shape, kind, doc))
        return name
