"""A Program as the Python that builds it from Lava's own processes, written for people to read.

One statement a process, named after the layer. All numbers but the weights, delays and biases stand in
the text; those are in `weights.npz` under the names of the processes.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sca_deploy.errors import UsageError
from sca_deploy.hardware.lava.geometry import fitted
from sca_deploy.hardware.lava.timing import hosted
from sca_deploy.hardware.program import INPUT, Conv, IntArray, Layer, Program, Shape, Synapse

TAKEN = {
    *keyword.kwlist, INPUT, "int", "np", "Conv", "Dense", "DelayDense", "LIF", "LIFReset", "SignMode",
    "STEPS", "weights", "kernel", "bias", "spikes", "biases",
}  # fmt: skip
"""Names that mean something else in `build`."""


@dataclass(frozen=True, eq=False)
class Connection:
    """One synapse process.

    Args:
        name: of its variable, and of its arrays in weights.npz.
        source: the variable of the neurons it reads, or "input".
        synapse: with the geometry that Lava holds.
        delay: steps that Lava holds spikes, (out, in) or one number; the wait for longer paths included.
        wait: steps that the host sends the input late.
    """

    name: str
    source: str
    synapse: Synapse
    delay: int | IntArray
    wait: int


@dataclass(frozen=True, eq=False)
class Population:
    """One neuron process and what feeds it. `host`: its bias is written while the network runs."""

    name: str
    layer: Layer
    stage: int
    connections: tuple[Connection, ...]
    host: bool


def populations(program: Program) -> tuple[Population, ...]:
    """The processes a Program needs, in its order.

    Raises:
        UsageError: if a convolution is beyond Lava's geometry, or the layers form more than one network.
    """
    _check_connected(program)
    names = _Names()
    layers = {layer.name: names.new(layer.name) for layer in program.layers}
    found = []
    for layer in program.layers:
        stage, connections = program.stages[layer.name], []
        for synapse in layer.synapses:
            source = layers.get(synapse.source, INPUT)
            name = names.new(f"{layers[layer.name]}_from_{'itself' if synapse.source == layer.name else source}")
            connections.append(_connection(program, layer, synapse, name, source))
        host = hosted(program, layer)
        found.append(Population(layers[layer.name], layer, stage, tuple(connections), host))
    return tuple(found)


class _Names:
    """Python names, each given once."""

    def __init__(self) -> None:
        self._given = set(TAKEN)

    def new(self, wish: str) -> str:
        name = base = re.sub(r"^(?=\d)", "layer_", re.sub(r"\W", "_", wish, flags=re.ASCII)) or "layer"
        number = 2
        while name in self._given:
            name, number = f"{base}_{number}", number + 1
        self._given.add(name)
        return name


def _connection(program: Program, layer: Layer, synapse: Synapse, name: str, source: str) -> Connection:
    wait = program.wait(layer, synapse)
    late = wait if source == INPUT else 0
    if isinstance(synapse, Conv):
        return Connection(name, source, fitted(synapse, layer.name), 0, late)
    held = np.broadcast_to(np.asarray(synapse.delay, np.int32) + (wait - late), synapse.weight.shape)
    delay = int(held.flat[0]) if np.ptp(held) == 0 else held
    return Connection(name, source, synapse, delay, late)


def _check_connected(program: Program) -> None:
    """Lava runs what is connected with the process it starts from."""
    group = {layer.name: layer.name for layer in program.layers}
    group[INPUT] = INPUT

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for layer in program.layers:
        for synapse in layer.synapses:
            group[root(synapse.source)] = root(layer.name)
    first, *others = program.layers
    for other in others:
        if root(other.name) != root(first.name):
            raise UsageError(
                f"layers '{first.name}' and '{other.name}' are not connected, and Lava runs connected networks",
                "lower the two networks apart",
            )


def arrays(found: Iterable[Population]) -> dict[str, IntArray]:
    """What weights.npz holds: `<process>.weight`, `.delay` and `.bias`, shaped as in the Program."""
    held: dict[str, IntArray] = {}
    for population in found:
        if population.layer.bias.any() or population.host:
            held[f"{population.name}.bias"] = population.layer.bias
        for connection in population.connections:
            held[f"{connection.name}.weight"] = connection.synapse.weight
            if np.ndim(connection.delay):
                held[f"{connection.name}.delay"] = np.asarray(connection.delay, np.int32)
    return held


def source_text(program: Program, title: str) -> str:
    """The text of network.py.

    Raises:
        UsageError: as `populations`.
    """
    found = populations(program)
    top = "\n\n".join([_head(program, found, title), _imports(program, found), _constants(program, found)])
    parts = [top]
    parts += [*_readers(found), _build(program, found), *_runner(program, found), _main(program)]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


HEAD = """
\"\"\"{title}: a spiking network as Lava processes, for Lava's bit-accurate model of Loihi 2.

    python network.py input.npy output.npz{sample}

input.npy: integers of shape (samples, {shape}), {kind}.
output.npz: {output}.
Needs lava-nc 0.10.0 (Python 3.10) and weights.npz beside this file.

A synapse takes one step, so a layer answers step t of the input `stage` steps later{after}:

{table}
{remarks}
At every step u loses (du + 1) / 4096 of itself and v loses dv / 4096; weights and biases enter both times 64.
Our arrays are (channel, height, width), Lava's (width, height, channel).
\"\"\"
"""
ONE_SAMPLE = """
A run takes one sample: spikes still on their way at its end would reach the next one. A layer has to rest
until its stage has come, so the host switches biases on then.
"""
INJECTED = """
The input is no spikes: the host writes it into the bias of {names} at every step.
"""


def _head(program: Program, found: tuple[Population, ...], title: str) -> str:
    values = f"{program.input_min} to {program.input_max}"
    last = found[-1].name
    remarks = ONE_SAMPLE if program.carries else ""
    if program.injected:
        remarks += INJECTED.format(names=", ".join(p.name for p in found if p.layer.injected))
    text = HEAD.format(
        title=" ".join(re.sub(r'["\\]', "", title).split()),
        sample=" [sample]" if program.carries else "",
        shape=", ".join(map(str, (program.steps, *program.input_shape))),
        kind=f"biases of {values}" if program.injected else f"spikes of {values}",
        output=f"the final v of {last}, which never fires" if program.readout else f"the spikes of {last}",
        after="" if program.carries else f".\nThe next sample starts {program.steps} steps after the one before",
        table=_table(found),
        remarks=remarks,
    )
    return text.strip("\n")


def _table(found: tuple[Population, ...]) -> str:
    rows = [("layer", "stage", "neurons", "reads")]
    for population in found:
        reads = [INPUT] if population.layer.injected else []
        reads += [_reads(connection) for connection in population.connections]
        shape = " x ".join(map(str, population.layer.shape))
        rows.append((population.name, str(population.stage), shape, ", ".join(reads)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*(row[column].ljust(widths[column]) for column in range(3)), row[3]]) for row in rows]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def _reads(connection: Connection) -> str:
    if connection.wait:
        return f"{INPUT} (sent again {connection.wait} steps later)"
    longest = int(np.max(connection.delay))
    return f"{connection.source} (held up to {longest} steps)" if longest else connection.source


def _imports(program: Program, found: tuple[Population, ...]) -> str:
    connections = [connection for population in found for connection in population.connections]
    dense = {_process(connection) for connection in connections} - {"Conv"}
    lines = [
        "import sys",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from lava.magma.core.run_conditions import RunSteps",
        "from lava.magma.core.run_configs import Loihi2SimCfg",
    ]
    if any(_process(connection) == "Conv" for connection in connections):
        lines.append("from lava.proc.conv.process import Conv")
    if dense:
        lines.append(f"from lava.proc.dense.process import {', '.join(sorted(dense))}")
    lines += ["from lava.proc.io import sink, source", f"from lava.proc.lif.process import {_neuron(program)}"]
    if dense:
        lines.append("from lava.utils.weightutils import SignMode")
    return "\n".join(lines)


def _process(connection: Connection) -> str:
    """The class of a synapse process."""
    if isinstance(connection.synapse, Conv):
        return "Conv"
    return "DelayDense" if np.any(connection.delay) else "Dense"


def _neuron(program: Program) -> str:
    """The class of the neuron processes: with resets only where samples follow one another."""
    return "LIF" if program.carries else "LIFReset"


def _waits(found: tuple[Population, ...]) -> tuple[int, ...]:
    return tuple(sorted({c.wait for population in found for c in population.connections if c.source == INPUT}))


def _constants(program: Program, found: tuple[Population, ...]) -> str:
    stages = ", ".join(f'"{population.name}": {population.stage}' for population in found)
    lines = [f"STEPS = {program.steps}  # of a sample", f"INPUT_SHAPE = {program.input_shape}"]
    waits = _waits(found)
    if waits:
        lines.append(f"INPUT_WAITS = {waits}  # steps that the input is sent late, for layers that come later")
    lines.append(_wrapped("STAGES = {", stages, "}"))
    host = ", ".join(f'"{population.name}": {_lava(population.layer.shape)}' for population in found if population.host)
    if host:
        lines.append("# Layers whose bias the host writes while the network runs, and their shapes in Lava.")
        lines.append(_wrapped("HOST = {", host, "}"))
    lines.append("# Layers whose spikes `run` hands back; Lava takes about 20 microseconds to read a value.")
    lines.append("RECORD = ()" if program.readout else f'RECORD = ("{found[-1].name}",)')
    return "\n".join([*lines, "", 'weights = np.load(Path(__file__).with_name("weights.npz"))'])


def _wrapped(opening: str, items: str, closing: str) -> str:
    """On one line where that is short, else one item a line."""
    if len(items) < 100:
        return f"{opening}{items}{closing}"
    return "\n".join([opening, *(f"    {item}," for item in re.split(r", (?=\")", items)), closing])


def _lava(shape: Shape) -> Shape:
    """A shape in Lava's order."""
    return shape[::-1]


KERNEL = """
def kernel(name):
    \"\"\"The weights of a convolution as Lava takes them, (out, x, y, in) and flipped against the file.\"\"\"
    return np.ascontiguousarray(weights[f"{name}.weight"][:, :, ::-1, ::-1].transpose(0, 3, 2, 1))
"""
BIAS = """
def bias(name, shape):
    \"\"\"The bias of every neuron of a layer; the file may hold one a channel.\"\"\"
    held = weights[f"{name}.bias"]
    return held.T if held.ndim == len(shape) else np.broadcast_to(held, shape)
"""


def _readers(found: tuple[Population, ...]) -> list[str]:
    conv = any(_process(connection) == "Conv" for population in found for connection in population.connections)
    biased = any(population.host or population.layer.bias.any() for population in found)
    return [*([KERNEL] if conv else []), *([BIAS] if biased else [])]


def _build(program: Program, found: tuple[Population, ...]) -> str:
    waits, host = _waits(found), [population.name for population in found if population.host]
    arguments = [*(["spikes"] if waits else []), *(["biases"] if host else [])]
    lines = [f"def build({', '.join(arguments)}):", '    """Make the network.', "", "    Args:"]
    if waits:
        lines.append("        spikes: {wait: the out-port of whatever sends the input that many steps late}.")
    if host:
        lines.append("        biases: {layer: its bias at the first step}, of those in HOST.")
    lines += ["", "    Returns:", "        {layer: its neurons}.", '    """']
    for population in found:
        lines += ["", *(f"    {line}" for line in _population(program, population))]
    pairs = ", ".join(f'"{population.name}": {population.name}' for population in found)
    returned = _wrapped("return {", pairs, "}").replace("\n", "\n    ")
    text = "\n".join([*lines, "", f"    {returned}"])
    return text.replace('"""\n\n', '"""\n', 1)


def _population(program: Program, population: Population) -> list[str]:
    layer, name = population.layer, population.name
    shape = _lava(layer.shape)
    fields = [("shape", str(shape)), ("du", str(layer.u_decay - 1)), ("dv", str(layer.v_decay))]
    fields.append(("vth", str(layer.threshold)))
    if population.host:
        fields += [("bias_mant", f'biases["{name}"]'), ("bias_exp", "6")]
    elif layer.bias.any():
        fields += [("bias_mant", f'bias("{name}", {shape})'), ("bias_exp", "6")]
    if not program.carries:
        # Lava counts steps from 1.
        fields += [("reset_interval", "STEPS"), ("reset_offset", str(population.stage + 1))]
    lines = [f"# {name}: {' x '.join(map(str, layer.shape))} neurons, stage {population.stage}"]
    lines += _call(name, _neuron(program), fields)
    for connection in population.connections:
        lines += _call(connection.name, _process(connection), _synapse_fields(program, connection))
        lines.append(f"{_out_port(program, connection)}.connect({connection.name}.s_in)")
        lines.append(f"{connection.name}.a_out.connect({name}.a_in)")
    return lines


def _call(variable: str, process: str, fields: list[tuple[str, str]]) -> list[str]:
    """`variable = process(field=value, ...)`, with one field a line where it is long."""
    line = f"{variable} = {process}({', '.join(f'{key}={value}' for key, value in fields)})"
    if len(line) <= 110:
        return [line]
    return [f"{variable} = {process}(", *(f"    {key}={value}," for key, value in fields), ")"]


def _synapse_fields(program: Program, connection: Connection) -> list[tuple[str, str]]:
    synapse = connection.synapse
    bits = program.input_bits if connection.source == INPUT else 0
    graded = [("num_message_bits", str(bits))] if bits else []
    if isinstance(synapse, Conv):
        fields = [("weight", f'kernel("{connection.name}")')]
        fields.append(("input_shape", str(_lava(program.shape_of(synapse.source)))))
        for what, usual in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))):
            if getattr(synapse, what) != usual:
                fields.append((what, str(getattr(synapse, what)[::-1])))
        return fields + ([("groups", str(synapse.groups))] if synapse.groups > 1 else []) + graded
    fields = [("weights", f'weights["{connection.name}.weight"]')]
    if np.ndim(connection.delay):
        fields.append(("delays", f'weights["{connection.name}.delay"].astype(int)'))
    elif connection.delay:
        fields.append(("delays", str(connection.delay)))
    return [*fields, ("sign_mode", "SignMode.MIXED"), *graded]


def _out_port(program: Program, connection: Connection) -> str:
    """Where a synapse's spikes come from, a map flattened in our order for a dense one."""
    port = f"spikes[{connection.wait}]" if connection.source == INPUT else f"{connection.source}.s_out"
    flat = len(program.shape_of(connection.synapse.source)) == 1
    return port if flat or isinstance(connection.synapse, Conv) else f"{port}.transpose((2, 1, 0)).flatten()"


DELAYED = """
def delayed(frames, wait, steps):
    \"\"\"Frames (time, ...) for a source: `wait` steps late, `steps` in all, in Lava's order with time last.\"\"\"
    sent = np.zeros((steps, *INPUT_SHAPE), np.int32)
    sent[wait : wait + len(frames)] = frames
    return sent.T
"""
BIAS_AT = """
def bias_at(name, step, frames):
    \"\"\"What the host holds in a layer's bias at a step of the run: nothing before the layer's stage has come.\"\"\"
    t = step - STAGES[name]
    if not 0 <= t < len(frames):
        return np.zeros(HOST[name], int)
    return {value}
"""
RUN = """
def run(x, record=RECORD):
    \"\"\"Run {what}.

    Args:
        x: integers, ({samples}, STEPS, *INPUT_SHAPE).
        record: names of layers.

    Returns:
        {returns}
    \"\"\"
    frames = x.reshape(-1, *INPUT_SHAPE)
    steps = len(frames) + max(STAGES.values())
{make}
    sinks = {{name: sink.RingBuffer(shape=layers[name].s_out.shape, buffer=steps) for name in record}}
    for name, process in sinks.items():
        layers[name].s_out.connect(process.a_in)
{watch}    network = layers["{last}"]
    config = Loihi2SimCfg(select_tag="fixed_pt")
    try:
{loop}
        results = {{name: by_sample(name, process, len(frames)) for name, process in sinks.items()}}
{read}    finally:
        network.stop()
    return results
"""
BY_SAMPLE = """
def by_sample(name, process, length):
    \"\"\"What a sink holds of a layer, (samples, STEPS, *our shape), from its stage on.\"\"\"
    values = process.data.get().astype(int).T[STAGES[name] :][:length]
    return values.reshape(-1, STEPS, *values.shape[1:])
"""


def _runner(program: Program, found: tuple[Population, ...]) -> list[str]:
    waits, host, last = _waits(found), any(population.host for population in found), found[-1].name
    make, arguments = [], []
    if waits:
        make.append("sources = {wait: source.RingBuffer(data=delayed(frames, wait, steps)) for wait in INPUT_WAITS}")
        arguments.append("{wait: process.s_out for wait, process in sources.items()}")
    if host:
        make.append("biases = {name: bias_at(name, 0, frames) for name in HOST}")
        arguments.append("biases")
    make.append(f"layers = build({', '.join(arguments)})")
    loop = ["network.run(condition=RunSteps(num_steps=steps), run_cfg=config)"]
    if host:
        loop = [
            "for step in range(steps):",
            "    for name in HOST:",
            "        value = bias_at(name, step, frames)",
            "        if not np.array_equal(value, biases[name]):",
            "            layers[name].bias_mant.set(value)",
            "            biases[name] = value",
            "    network.run(condition=RunSteps(num_steps=1), run_cfg=config)",
        ]
    watch = ["v = sink.Read(buffer=steps)", f'v.connect_var(layers["{last}"].v)'] if program.readout else []
    read = [f'results["v"] = by_sample("{last}", v, len(frames))[:, -1]'] if program.readout else []
    text = RUN.format(
        what="one sample" if program.carries else "samples one after another, each from rest",
        samples=1 if program.carries else "samples",
        returns="{name: spikes, (samples, STEPS, *shape)}"
        + (', and "v": the final v of the last layer.' if program.readout else "."),
        make=_indented(make, 4).rstrip("\n"),
        watch=_indented(watch, 4),
        last=last,
        loop=_indented(loop, 8).rstrip("\n"),
        read=_indented(read, 8),
    )
    return [*([DELAYED] if waits else []), *([_bias_at(found)] if host else []), BY_SAMPLE, text]


def _bias_at(found: tuple[Population, ...]) -> str:
    injected = [population.name for population in found if population.layer.injected]
    value = "bias(name, HOST[name])"
    if injected:
        others = any(population.host and not population.layer.injected for population in found)
        value += f" + (frames[t].T if name in {tuple(injected)} else 0)" if others else " + frames[t].T"
    return BIAS_AT.format(value=value)


def _indented(lines: list[str], spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in lines)


MAIN = """
def main(input_path, output_path{parameter}):
    \"\"\"Run the samples of a file, save what came out and say how much that is.\"\"\"
    x = np.load(input_path){pick}
    if x.shape[1:] != (STEPS, *INPUT_SHAPE):
        sys.exit(f"{{input_path}} has shape {{x.shape}}, expected (samples, {{STEPS}}, *{{INPUT_SHAPE}})")
    results = run(x)
    np.savez(output_path, **results)
    for name, values in results.items():
        print(f"{{name}}: {{values.shape}}, sum {{values.sum()}}")


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def _main(program: Program) -> str:
    if program.carries:
        return MAIN.format(parameter=", sample=0", pick="[int(sample) :][:1]")
    return MAIN.format(parameter="", pick="")
