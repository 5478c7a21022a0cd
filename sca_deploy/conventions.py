"""What a NIR file leaves open, settled: by flags, by the framework it is read as, by its own metadata.

NIR's equations are in continuous time, so a file says neither the time step nor what becomes of a potential that has
crossed its threshold, and the frameworks that read and write NIR differ in both, in what R and tau mean to them, and
in where v begins. A preset says it all at once; its name is the framework's. What nothing says is asked for.

                dt        LIF                        IF          reset     fires  spikes a step  v not below
nir             asked     Euler                      Euler       hard      v >    1              -
norse           asked     Euler, R taken for 1       v = v + x   hard, 0   v >    1              -
snntorch        1e-4 s    Euler                      -           hard, 0   v >    1              -
spikingjelly    asked     Euler, R is 1 or tau / dt  v = v + x   hard      v >=   1              -
sinabs          any       v = exp(-1 / tau) v + x    v = v + x   subtract  v >=   any number     -v_threshold (IF)

Read from the sources of, and run against, norse 1.1.0, snntorch 1.0.0, spikingjelly 2.0.0 and sinabs 3.1.3. Their
readers differ in what they make of edges, too: where branches of several nodes meet, norse takes one from the step
before, and snntorch misreads a loop that is not a graph of its own. That is no convention, and a preset takes edges
as NIR means them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError, UsageError, unknown_name
from sca_deploy.hardware.dynamics import KEYS, RESETS, Dynamics
from sca_deploy.hardware.euler import NEURONS, SPIKING, refuse

Array = npt.NDArray[np.float64]

EULER: dict[str, Any] = {"multi_spike": False, "clamp": None, "tie": "gt"}
"""What NIR's own equations say."""

ANY_DT = 1e-4
"""The step, in seconds, of graphs to whose neurons it makes no difference; the one that files written here have."""

PROFILE = "profile"
"""The metadata key of files that mean NIR's equations otherwise, as the framework it names."""

TIMED = (*NEURONS, nir.Delay)


@dataclass(frozen=True)
class Asked:
    """What a user asked for; None where nothing was said, clamp = "none" where none is wanted."""

    dt: float | None = None
    reset: str | None = None
    multi_spike: bool | None = None
    clamp: float | str | None = None
    tie: str | None = None
    preset: str | None = None

    def given(self) -> dict[str, Any]:
        """What was said, under the keys of `Dynamics`."""
        given = {key: getattr(self, key) for key in KEYS if getattr(self, key) is not None}
        if self.reset == "hard":
            given = {"multi_spike": False} | given
        return given | ({"clamp": None} if self.clamp == "none" else {})


@dataclass(frozen=True)
class Preset:
    """How a framework reads NIR.

    Args:
        name: the framework.
        says: what it fixes, under the keys of `Dynamics`.
        runs: the node types it reads, or writes, and computes as they are meant; None for all.
        timeless: the neurons among them whose step does not depend on dt.
        reading: what it makes of a neuron; None where that is what NIR says.
        dt: what there is to know about its time step, where it has to be given.
    """

    name: str
    says: Mapping[str, Any]
    runs: tuple[type, ...] | None = None
    timeless: tuple[type, ...] = ()
    reading: Callable[[Neuron], nir.NIRNode] | None = None
    dt: str = ""


def settled(graph: nir.NIRGraph, asked: Asked, title: str) -> tuple[nir.NIRGraph, Dynamics]:
    """A graph and how it steps: the flags before the preset, the preset before the graph's own metadata.

    Args:
        graph: as it was read; it is not changed.
        asked: the flags.
        title: what the graph is called in an error, usually the file.

    Returns:
        A graph whose Euler step of `dt` is what the preset's framework computes, its metadata saying the dynamics,
        and the dynamics.

    Raises:
        UsageError: if the time step or the reset matters and nothing says it, or a flag cannot be meant.
        ScaDeployError: naming the node that the preset's framework does not run, or not as it is meant.
    """
    preset = _preset(asked, graph, title)
    said = (dict(preset.says) if preset else {}) | asked.given()
    values = EULER | _remembered(graph, said, title) | said
    nodes = list(_nodes(graph))
    timeless = preset.timeless if preset else ()
    matters = {
        "dt": any(isinstance(node, TIMED) and not isinstance(node, timeless) for node in nodes),
        "reset": any(isinstance(node, SPIKING) for node in nodes),
    }
    unsaid = [key for key, needed in matters.items() if needed and key not in values]
    if unsaid:
        raise _asking(title, unsaid, nodes, preset)
    complete: dict[str, Any] = {"dt": ANY_DT, "reset": "hard"} | values
    dynamics = Dynamics(**complete)
    result = copy.copy(graph) if preset is None else _read_as(preset, graph, dynamics.dt)
    # Scales were searched for the gains of the graph as it was written.
    other_gains = preset is not None or _metadata(graph).get("dt", dynamics.dt) != dynamics.dt
    stale = (*KEYS, PROFILE, "scales") if other_gains else (*KEYS, PROFILE)
    others = {key: value for key, value in _metadata(graph).items() if key not in stale}
    result.metadata = others | dynamics.metadata()
    return result, dynamics


def _preset(asked: Asked, graph: nir.NIRGraph, title: str) -> Preset | None:
    """The preset asked for, or the one that the metadata calls the profile: whose equations the file follows."""
    if asked.preset is not None and asked.preset not in PRESETS:
        raise unknown_name("preset", asked.preset, PRESETS)
    name = asked.preset or _metadata(graph).get(PROFILE)
    name = name.decode(errors="replace") if isinstance(name, bytes) else name
    if name is not None and name not in PRESETS:
        raise ScaDeployError(
            f"{title} was written for {name} alone, whose reading of NIR is not known here",
            "read the file it was made from, or name a reading with --preset",
        )
    return None if name is None else PRESETS[name]


def _metadata(graph: nir.NIRGraph) -> dict[str, Any]:
    # The default of nir's constructor is the class dict, not an instance of it.
    return graph.metadata if isinstance(graph.metadata, dict) else {}


def _remembered(graph: nir.NIRGraph, said: Collection[str], title: str) -> dict[str, Any]:
    """What the metadata says, as Python's own types, where nothing else does."""
    found: dict[str, Any] = {}
    for key, value in _metadata(graph).items():
        if key not in KEYS or key in said:
            continue
        plain = value.item() if isinstance(value, np.generic | np.ndarray) and np.size(value) == 1 else value
        plain = plain.decode(errors="replace") if isinstance(plain, bytes) else plain
        types = {"dt": float | int, "multi_spike": int, "clamp": float | int | str}.get(key, str)
        if not isinstance(plain, types):
            raise ScaDeployError(f"{title}: its metadata says {key} = {plain!r}", f"give --{key.replace('_', '-')}")
        found[key] = bool(plain) if key == "multi_spike" else plain
    return found


def _nodes(graph: nir.NIRGraph) -> Iterator[nir.NIRNode]:
    """All nodes that are not graphs, those of nested graphs as well."""
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            yield from _nodes(node)
        else:
            yield node


def _asking(title: str, unsaid: list[str], nodes: list[nir.NIRNode], preset: Preset | None) -> UsageError:
    """The error that asks for what is missing."""
    kinds = ", ".join(sorted({type(node).__name__ for node in nodes if isinstance(node, TIMED)}))
    missing = " and no ".join({"dt": "time step", "reset": "reset"}[key] for key in unsaid)
    problem = f"{title} says no {missing}, which its nodes of type {kinds} depend on"
    if preset is not None:
        return UsageError(problem, f"give --dt SECONDS; {preset.dt}")
    ways = {"dt": "--dt SECONDS", "reset": f"--reset {'|'.join(RESETS)}"}
    fix = f"give {' and '.join(ways[key] for key in unsaid)}, or --preset {'|'.join(PRESETS)} to read it as one of them"
    if any(isinstance(node, nir.IF) and np.all(np.asarray(node.r) == 1) for node in nodes):
        fix += "; R = 1 of an IF mostly means that the input is added as it is, as norse and sinabs do"
    return UsageError(problem, fix)


def _read_as(preset: Preset, graph: nir.NIRGraph, dt: float, prefix: str = "") -> nir.NIRGraph:
    """A copy of the graph, every neuron as the framework takes it."""
    changed = copy.copy(graph)
    changed.nodes = {}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            changed.nodes[name] = _read_as(preset, node, dt, f"{prefix}{name}.")
        else:
            changed.nodes[name] = _read_node(preset, Neuron(preset.name, prefix + name, node, dt))
    return changed


def _read_node(preset: Preset, given: Neuron) -> nir.NIRNode:
    node = given.node
    if preset.runs is None or isinstance(node, nir.Input | nir.Output):
        return node
    if not isinstance(node, preset.runs):
        raise given.refused("does not run nodes of this type")
    if isinstance(node, nir.SumPool2d) and np.any(node.padding):
        raise given.refused(f"ignores the padding, which is {node.padding}")
    return preset.reading(given) if preset.reading and isinstance(node, NEURONS) else node


@dataclass(frozen=True)
class Neuron:
    """A neuron node while a framework reads it. What it cannot mean is refused by a ScaDeployError."""

    framework: str
    name: str
    node: nir.NIRNode
    dt: float

    def value(self, key: str) -> Array:
        """A parameter in double precision."""
        return np.asarray(getattr(self.node, key), np.float64)

    def refused(self, why: str) -> ScaDeployError:
        """The error that says what the framework does with the node."""
        fix = "read the file with --preset nir, which takes it as NIR means it, or change the node"
        return refuse(self.name, self.node, f"{self.framework} {why}", fix)

    def need_zero(self, key: str, does: str) -> None:
        """Refuse a parameter other than 0, with what the framework does to it."""
        value = self.value(key)
        if value.any():
            raise self.refused(f"{does} {key}, which is {value[value != 0].flat[0]:g}")

    def need_one(self, key: str, value: Array) -> None:
        """Refuse values that differ from neuron to neuron."""
        if value.size and np.ptp(value) > 1e-6 * np.abs(value).max():
            words = f"{value.min():.6g} to {value.max():.6g}"
            raise self.refused(f"takes one {key} for all neurons of a population, here it is {words}")

    def need(self, key: str, wanted: Array, words: str) -> None:
        """Refuse a parameter that is not what the framework makes of it."""
        value = self.value(key)
        wrong = ~np.isclose(value, wanted, rtol=1e-6, atol=1e-12)
        if wrong.any():
            raise self.refused(f"runs {key} = {words} only, here it is {value[wrong].flat[0]:g}")

    def changed(self, **values: Array) -> Neuron:
        """The same with other parameters."""
        node = copy.copy(self.node)
        for key, value in values.items():
            setattr(node, key, value)
        return Neuron(self.framework, self.name, node, self.dt)

    def begins_at(self, v: Array) -> nir.NIRNode:
        """The node for a framework in which v begins elsewhere than at 0: every potential counts from there."""
        if not v.any():
            return self.node
        potentials = [key for key in ("v_leak", "v_threshold", "v_reset") if hasattr(self.node, key)]
        return self.changed(**{key: self.value(key) - v for key in potentials}).node


def _norse(given: Neuron) -> nir.NIRNode:
    """R is ignored but in CubaLIF; v begins at v_leak, and so do a CubaLIF's synapses, which leak towards it, too."""
    given.need_zero("v_reset", "ignores")
    if isinstance(given.node, nir.IF):
        return given.changed(r=np.full(np.shape(given.node.r), 1 / given.dt)).node
    if isinstance(given.node, nir.LIF):
        return given.changed(r=np.ones(np.shape(given.node.r))).begins_at(given.value("v_leak"))
    given.need_zero("v_leak", "lets the synapses leak towards")
    return given.node


def _snntorch(given: Neuron) -> nir.NIRNode:
    """Instead of multiplying the input by the gain, it divides the threshold by the smallest gain of all neurons."""
    given.need_zero("v_reset", "ignores")
    given.need_zero("v_leak", "refuses")
    given.need_one("v_threshold", given.value("v_threshold"))
    if isinstance(given.node, nir.LIF):
        given.need_one("R dt / tau", given.dt * given.value("r") / given.value("tau"))
    else:
        given.need("r", given.value("tau_mem") / given.dt, "tau_mem / dt")
        given.need_one("w_in dt / tau_syn", given.dt * given.value("w_in") / given.value("tau_syn"))
    return given.node


def _spikingjelly(given: Neuron) -> nir.NIRNode:
    """One value a population, and a gain that is 1 or 1 - beta; v begins at v_reset."""
    for key in ("tau", "tau_mem", "tau_syn", "r", "w_in", "v_leak", "v_threshold", "v_reset"):
        if hasattr(given.node, key):
            given.need_one(key, given.value(key))
    r, begins = given.value("r"), given.value("v_reset")
    if isinstance(given.node, nir.IF):
        given.need("r", np.full_like(r, 1 / given.dt), "1 / dt")
    elif isinstance(given.node, nir.CubaLIF):
        given.need("r", given.value("tau_mem") / given.dt, "tau_mem / dt")
        given.need("w_in", given.value("tau_syn") / given.dt, "tau_syn / dt")
        given.need_zero("v_leak", "refuses")
    else:
        steps = given.value("tau") / given.dt
        if (steps <= 1).any():
            raise given.refused(f"runs tau > dt only, here it is {steps.min():g} dt")
        given.need("r", np.where(np.isclose(r, 1, rtol=1e-6), 1.0, steps), "1 or tau / dt")
        given.need("v_leak", begins, "v_reset")
    return given.begins_at(begins)


def _sinabs(given: Neuron) -> nir.NIRNode:
    """R is ignored, tau counts steps, and what enters is added as it is."""
    if isinstance(given.node, nir.IF):
        given.need_zero("v_reset", "ignores")
        return given.changed(r=np.full(np.shape(given.node.r), 1 / given.dt)).node
    given.need_zero("v_leak", "refuses")
    if isinstance(given.node, nir.LI):
        given.need("r", np.ones(np.shape(given.node.r)), "1")
    else:
        given.need_zero("v_reset", "ignores")
    steps = given.value("tau")
    if (steps <= 0).any():
        raise given.refused(f"runs tau > 0 only, here it is {steps.min():g}")
    tau = given.dt / -np.expm1(-1 / steps)
    return given.changed(tau=tau, r=tau / given.dt).node


_PLAIN = {"reset": "hard", **EULER}
_MAPS = (nir.Affine, nir.Conv2d, nir.SumPool2d, nir.Flatten)
_MORE_MAPS = (*_MAPS, nir.Linear, nir.Conv1d, nir.AvgPool2d)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("nir", _PLAIN, dt="NIR's equations are in continuous time"),
        Preset(
            "norse",
            _PLAIN,
            runs=(*_MAPS, nir.Linear, nir.IF, nir.LIF, nir.CubaLIF),
            timeless=(nir.IF,),
            reading=_norse,
            dt="norse takes it as an argument, which is 1e-3 if it is left out",
        ),
        Preset("snntorch", {"dt": 1e-4, **_PLAIN}, runs=(*_MORE_MAPS, nir.LIF, nir.CubaLIF), reading=_snntorch),
        Preset(
            "spikingjelly",
            _PLAIN | {"tie": "ge"},
            runs=(*_MORE_MAPS, nir.IF, nir.LIF, nir.CubaLIF),
            reading=_spikingjelly,
            dt="spikingjelly takes it as an argument, which is 1e-4 if it is left out",
        ),
        Preset(
            "sinabs",
            {"reset": "subtract", "multi_spike": True, "clamp": "threshold", "tie": "ge"},
            runs=(*_MAPS, nir.Conv1d, nir.IF, nir.LIF, nir.LI),
            timeless=(nir.IF, nir.LIF, nir.LI),
            reading=_sinabs,
        ),
    )
}
"""The presets by name."""
