"""The integer Program as the ONNX operators of one time step: the chip's own integers, bit for bit.

Weights are even and of 9 bits, so that half of each is an int8, of which ConvInteger and MatMulInteger make exact int32
sums. All the rest is int32 as well:

    a = 2 sum(weight / 2 . spikes)                 of a convolution modulo 2^24, where it can leave 24 bits
    u = dec(<layer>_u, u_decay) + 64 a             modulo 2^24, where it can leave 24 bits
    v = clip(dec(<layer>_v, v_decay) + u + 64 bias, +-(2^23 - 1));  spikes = v > 64 threshold;  v = 0 where it spiked
    dec(x, d) = x (4096 - d) / 4096                ONNX's division of integers drops the remainder towards zero

x (4096 - d) can need 36 bits. With x = 4096 h + l, both of x's sign, it is h (4096 - d) + l (4096 - d) / 4096.
Messages of more than 7 bits are taken apart: on some processors onnxruntime adds two products of 8 bits in 16.

Quantize/DequantizeLinear pairs (QDQ) are not offered. They carry 8 or 16 bits, potentials have 24 and sums up to 17: of
the digits network, pairs of 8 bits around its sums turned 2.1 % of all spikes in onnxruntime 1.31, around its
potentials 1.1 %, and pairs of 16 bits around its potentials 0.03 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.onnx_step import LOGITS, Array, OneStep, Port, X, left
from sca_deploy.hardware.program import (
    ALIGNMENT_BITS,
    DECAY_ONE,
    INPUT,
    STATE_LIMIT,
    Conv,
    Dense,
    Layer,
    Program,
    Synapse,
)

ALIGNED = 1 << ALIGNMENT_BITS
INT32_LIMIT = 1 << 31
PIECE_BITS = 7
"""Bits of a message that may be multiplied at once: two products of 7 and 8 bits add up within 16."""


def integer_step(program: Program) -> OneStep:
    """One time step of a Program.

    x is int32. States are `<layer>_v`, `<layer>_u` where currents decay, and `<source>_past`, (steps, neurons), the
    latest first, where synapses are late. Recorded are `<layer>_spikes`. `logits` is the read-out's potential, or
    without a read-out the last layer's spikes.

    Raises:
        ScaDeployError: naming the layer whose sums may leave 32 bits.
    """
    last = program.layers[-1]
    doc = "the read-out, of which the last step's counts" if program.readout else "spikes, of which the sum counts"
    step = OneStep(Port(X, program.input_shape, "INT32", "the input"), Port(LOGITS, last.shape, "INT32", doc))
    writer = _Writer(program, step)
    for layer in program.layers:
        writer.write(layer)
    writer.remember()
    step.operator("Identity", [left(f"{last.name}_v") if program.readout else f"{last.name}/out"], LOGITS)
    return step


@dataclass
class _Writer:
    """Collects the operators of a Program's step.

    Args:
        late: of sources that are read later, the longest delay in steps.
        made: the values that several synapses may ask for and that are there.
    """

    program: Program
    step: OneStep
    late: dict[str, int] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for layer in self.program.layers:
            for synapse in layer.synapses:
                if isinstance(synapse, Dense) and synapse.delay_range[1]:
                    longest = max(self.late.get(synapse.source, 0), synapse.delay_range[1])
                    self.late[synapse.source] = longest
        for source, longest in self.late.items():
            neurons = int(np.prod(self.program.shape_of(source)))
            self.step.state(f"{source}_past", (longest, neurons), f"what '{source}' sent", "INT32")

    def write(self, layer: Layer) -> None:
        """Write one layer; those it reads must have been written."""
        step, name = self.step, layer.name
        sums = [self._sums(layer, i, synapse) for i, synapse in enumerate(layer.synapses)]
        reach = ALIGNED * sum(bound for _, bound in sums)
        if reach + STATE_LIMIT * 3 >= INT32_LIMIT:
            raise ScaDeployError(f"layer '{name}': its currents may reach {reach:,}, ONNX's integers hold 32 bits")
        total = ""
        for i, (value, _) in enumerate(sums):
            total = step.operator("Add", [total, value], f"{name}/sum{i}") if total else value
        u = self._current(layer, total, reach)
        v = self._decayed(name, step.state(f"{name}_v", layer.shape, "membrane potential", "INT32"), layer.v_decay)
        parts = [part for part in (v, u, self._bias(layer)) if part]
        before = parts[0]
        for i, part in enumerate(parts[1:]):
            before = step.operator("Add", [before, part], f"{name}/v{i}")
        limits = [self._number(1 - STATE_LIMIT), self._number(STATE_LIMIT - 1)]
        clipped = step.operator("Clip", [before, *limits], f"{name}/clipped")
        spikes = step.record(f"{name}_spikes", layer.shape, f"whether each neuron of '{name}' spikes", "BOOL")
        step.operator("Greater", [clipped, self._number(layer.threshold * ALIGNED)], spikes)
        step.operator("Where", [spikes, self._number(0), clipped], left(f"{name}_v"))
        self._cast(spikes, "INT32", f"{name}/out")

    def remember(self) -> None:
        """Leave to the next step what late synapses will read."""
        for source, longest in self.late.items():
            row = self.step.operator("Unsqueeze", [self._flat(source), self._axis()], f"{source}/newest")
            known = self.step.operator("Concat", [row, f"{source}_past"], f"{source}/known", axis=1)
            self._slice(known, 0, longest, left(f"{source}_past"))

    def _bias(self, layer: Layer) -> str:
        """What a step adds to the potential, "" if that is nothing."""
        name, bias = layer.name, layer.full_bias() * ALIGNED
        stored = self.step.constant(f"{name}/bias", bias, np.int32) if bias.any() else ""
        if not layer.injected:
            return stored
        given = self.step.operator("Mul", [X, self._number(ALIGNED)], f"{name}/injected")
        return self.step.operator("Add", [given, stored], f"{name}/driven") if stored else given

    def _current(self, layer: Layer, total: str, reach: int) -> str:
        """The current u, "" of a layer without synapses."""
        step, name = self.step, layer.name
        u = step.operator("Mul", [total, self._number(ALIGNED)], f"{name}/aligned") if total else ""
        if layer.u_decay < DECAY_ONE:
            kept = self._decayed(name, step.state(f"{name}_u", layer.shape, "current", "INT32"), layer.u_decay)
            u = step.operator("Add", [kept, u], f"{name}/u") if u else kept
            # What decay leaves adds up to the sum of a geometric series.
            reach = reach * DECAY_ONE // layer.u_decay if layer.u_decay else INT32_LIMIT
        if reach >= STATE_LIMIT:
            # Into (-2^23, 2^23], by one turn.
            u = self._turned(u, "Greater", STATE_LIMIT, -2 * STATE_LIMIT, f"{name}/below")
            u = self._turned(u, "Less", 1 - STATE_LIMIT, 2 * STATE_LIMIT, f"{name}/wrapped")
        if layer.u_decay < DECAY_ONE:
            step.operator("Identity", [u], left(f"{name}_u"))
        return u

    def _turned(self, value: str, test: str, limit: int, turn: int, output: str) -> str:
        over = self.step.operator(test, [value, self._number(limit)], f"{output}/over")
        turned = self.step.operator("Add", [value, self._number(turn)], f"{output}/turned")
        return self.step.operator("Where", [over, turned, value], output)

    def _decayed(self, name: str, state: str, decay: int) -> str:
        """What is left of a state, "" if that is nothing."""
        step, keep = self.step, DECAY_ONE - decay
        if keep in (0, DECAY_ONE):
            return state if keep else ""
        whole = keep & -keep
        times, over = keep // whole, DECAY_ONE // whole
        if times * STATE_LIMIT < INT32_LIMIT:
            product = step.operator("Mul", [state, self._number(times)], f"{state}/times") if times > 1 else state
            return step.operator("Div", [product, self._number(over)], f"{state}/decayed")
        high = step.operator("Div", [state, self._number(DECAY_ONE)], f"{state}/high")
        above = step.operator("Mul", [high, self._number(DECAY_ONE)], f"{state}/above")
        low = step.operator("Sub", [state, above], f"{state}/low")
        product = step.operator("Mul", [low, self._number(keep)], f"{state}/low-times")
        low_part = step.operator("Div", [product, self._number(DECAY_ONE)], f"{state}/low-left")
        high_part = step.operator("Mul", [high, self._number(keep)], f"{state}/high-left")
        return step.operator("Add", [high_part, low_part], f"{state}/decayed")

    def _sums(self, layer: Layer, index: int, synapse: Synapse) -> tuple[str, int]:
        """The value that holds a synapse's sums, and what they can reach."""
        name = f"{layer.name}/synapse{index}"
        per_neuron = np.abs(synapse.weight.astype(np.int64)).reshape(len(synapse.weight), -1).sum(axis=1)
        reach = int(per_neuron.max(initial=0)) * self.program.payload_max(synapse.source)
        if reach >= INT32_LIMIT:
            raise ScaDeployError(f"layer '{layer.name}': its sums may reach {reach:,}, ONNX's integers hold 32 bits")
        half = (synapse.weight // 2).astype(np.int8)
        if isinstance(synapse, Conv):
            total = self._convolved(name, synapse, half)
            if reach >= STATE_LIMIT:
                total = self._modulo(total, f"{name}/modulo")
                reach = STATE_LIMIT
            return total, reach
        return self._multiplied(name, synapse, half), reach

    def _modulo(self, value: str, output: str) -> str:
        """Into [-2^23, 2^23) modulo 2^24."""
        raised = self.step.operator("Add", [value, self._number(STATE_LIMIT)], f"{output}/raised")
        rest = self.step.operator("Mod", [raised, self._number(2 * STATE_LIMIT)], f"{output}/rest")
        return self.step.operator("Sub", [rest, self._number(STATE_LIMIT)], output)

    def _convolved(self, name: str, conv: Conv, half: Array) -> str:
        weight = self.step.constant(f"{name}/half", half, np.int8)
        sides = {"strides": conv.stride, "pads": conv.padding * 2, "dilations": conv.dilation, "group": conv.groups}

        def convolve(piece: str, output: str) -> str:
            kernel = list(conv.weight.shape[2:])
            return self.step.operator("ConvInteger", [piece, weight], output, kernel_shape=kernel, **sides)

        return self._in_pieces(self._sent(conv.source), conv.source, name, convolve)

    def _multiplied(self, name: str, dense: Dense, half: Array) -> str:
        """The sums of a fully connected synapse: one product for each different delay."""
        delay = np.broadcast_to(dense.delay, half.shape)
        total = ""
        for late in np.unique(delay).tolist():
            own = f"{name}/late{late}"
            weight = self.step.constant(f"{own}/half", np.where(delay == late, half, 0).T, np.int8)
            source = self._flat(dense.source) if late == 0 else self._past(dense.source, late)

            def multiply(piece: str, output: str, weight: str = weight) -> str:
                return self.step.operator("MatMulInteger", [piece, weight], output)

            product = self._in_pieces(source, dense.source, own, multiply)
            total = self.step.operator("Add", [total, product], f"{own}/sum") if total else product
        return total

    def _in_pieces(self, value: str, source: str, name: str, product: Any) -> str:
        """Twice the sum of the products of a value's pieces of 7 bits, the lowest first."""
        bits, total = self.program.payload_max(source).bit_length(), ""
        for low in range(0, bits, PIECE_BITS):
            piece = value
            if low:
                piece = self.step.operator("Div", [value, self._number(1 << low)], f"{name}/above{low}")
            if low + PIECE_BITS < bits:
                piece = self.step.operator("Mod", [piece, self._number(1 << PIECE_BITS)], f"{name}/piece{low}")
            result = product(self._cast(piece, "UINT8", f"{name}/bytes{low}"), f"{name}/product{low}")
            scaled = self.step.operator("Mul", [result, self._number(2 << low)], f"{name}/scaled{low}")
            total = self.step.operator("Add", [total, scaled], f"{name}/total{low}") if total else scaled
        return total

    def _sent(self, source: str) -> str:
        return X if source == INPUT else f"{source}/out"

    def _flat(self, source: str) -> str:
        """What a source sends at this step, (batch, neurons)."""
        if len(self.program.shape_of(source)) == 1:
            return self._sent(source)
        name = f"{source}/flat"
        if name not in self.made:
            self.made.add(self.step.operator("Flatten", [self._sent(source)], name, axis=1))
        return name

    def _past(self, source: str, late: int) -> str:
        """What a source sent so many steps before, (batch, neurons)."""
        name = f"{source}/before{late}"
        if name not in self.made:
            row = self._slice(f"{source}_past", late - 1, late, f"{name}/row")
            self.made.add(self.step.operator("Squeeze", [row, self._axis()], name))
        return name

    def _slice(self, value: str, first: int, last: int, output: str) -> str:
        ends = [self.step.constant(f"steps/{n}", [n], np.int64) for n in (first, last)]
        return self.step.operator("Slice", [value, *ends, self._axis()], output)

    def _axis(self) -> str:
        return self.step.constant("second-axis", [1], np.int64)

    def _number(self, value: int) -> str:
        return self.step.constant(f"number/{value}", value, np.int32)

    def _cast(self, value: str, kind: str, output: str) -> str:
        from onnx import TensorProto

        return self.step.operator("Cast", [value], output, to=TensorProto.DataType.Value(kind))
