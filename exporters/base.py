"""What every exporter is given, what it hands back, and where exporters are found.

An exporter turns a `Deployable` into a file or a folder of one format and proves what it wrote: each
`Check` in the `Exported` it returns says what was compared and by how much the two sides differ.

The exporters of this package and those of plug-ins are found the same way: an entry point of the group
`sca_deploy.exporters` whose name is the target and whose value names a class that satisfies `Exporter` and needs no
arguments; those it can take are the options of its target. Nothing is imported before a target is asked for, and a
plug-in cannot take the name of an exporter of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sca_deploy.errors import ScaDeployError, UsageError, unknown_name

if TYPE_CHECKING:
    import nir

    from sca_deploy.hardware.chip import Chip
    from sca_deploy.hardware.dynamics import Dynamics
    from sca_deploy.hardware.program import Program

GROUP = "sca_deploy.exporters"

_BUILT_IN = (
    EntryPoint("lava", "sca_deploy.exporters.lava:LavaExporter", GROUP),
    EntryPoint("loihi2", "sca_deploy.exporters.loihi2:Loihi2Exporter", GROUP),
    EntryPoint("nir", "sca_deploy.exporters.nir:NirExporter", GROUP),
    EntryPoint("onnx", "sca_deploy.exporters.onnx:OnnxExporter", GROUP),
)


@dataclass(frozen=True, eq=False)
class Probe:
    """A small real batch and what the float network makes of it, for self-checks.

    Args:
        x: (samples, steps, *input_shape); what enters the graph's Input at each step.
        spikes: for each neuron node of the graph, by its name, (samples, steps, *shape) of bool.
        logits: (samples, classes); what enters the graph's Output, summed over time.
    """

    x: npt.NDArray[Any]
    spikes: Mapping[str, npt.NDArray[np.bool_]]
    logits: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Deployable:
    """A trained network, ready to be written in any format.

    Args:
        graph: the float network.
        dt: the time step in seconds the graph's time constants were made for.
        program: the integer network; None where it was not lowered.
        probe: what to check an export with; None where there is no data.
        manifest: versions, seed, hashes; plain JSON values, copied into what is written.
        title: what the network is called.
        chip: the chip it is for, whose limits a chip's exporter checks; None where that does not matter.
        dynamics: what the graph's neurons do between its equations; None for NIR's own, a hard reset at `dt`.
    """

    graph: nir.NIRGraph
    dt: float
    program: Program | None = None
    probe: Probe | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    title: str = "network"
    chip: Chip | None = None
    dynamics: Dynamics | None = None

    @property
    def lowered(self) -> Program:
        """The integer network, for exporters that need it.

        Raises:
            ScaDeployError: if there is none.
        """
        if self.program is None:
            raise ScaDeployError(f"'{self.title}' was not lowered to integers", "give its steps and input bits")
        return self.program


@dataclass(frozen=True)
class Check:
    """One comparison an exporter made between what it was given and what it wrote.

    Args:
        name: what was compared, e.g. "re-read network.nir".
        max_difference: the largest difference found; None where no numbers were compared.
        detail: what the number does not say.
    """

    name: str
    max_difference: float | None
    detail: str = ""

    def __str__(self) -> str:
        """One line for people, e.g. "re-read network.nir: maximum difference 0"."""
        number = "" if self.max_difference is None else f"maximum difference {self.max_difference:g}"
        return f"{self.name}: {', '.join(part for part in (number, self.detail) if part)}"


@dataclass(frozen=True)
class Exported:
    """What an exporter wrote, and how it was checked."""

    target: str
    path: Path
    checks: tuple[Check, ...]


@runtime_checkable
class Exporter(Protocol):
    """Writes one format.

    `name` is the target a user asks for, `summary` one line on what it is good for, `suffix` the ending
    of the file it writes (".nir"), empty where it writes a folder. `integers` says whether it needs the
    Program, `probes` whether it makes use of a probe; neither is made for an exporter that does not.
    """

    name: str
    summary: str
    suffix: str
    integers: bool
    probes: bool

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write `deployable` to `output`, read it back and check it.

        Raises:
            ScaDeployError: if the network cannot be carried by this format, or cannot be written.
            Mismatch: if what was written is not what was given.
            MissingExtra: if the format needs a library that is not installed.
        """
        ...


def _known() -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=GROUP)}
    return found | {point.name: point for point in _BUILT_IN}


def exporters() -> tuple[str, ...]:
    """The targets that can be asked for, sorted; imports none of them."""
    return tuple(sorted(_known()))


def exporter(name: str, options: Mapping[str, Any] | None = None) -> Exporter:
    """The exporter for a target.

    Args:
        name: the target.
        options: what its class is to be made with, such as {"form": "scan"} for onnx.

    Raises:
        UsageError: if no exporter has that name or takes such an option, or a plug-in of that name does not load.
    """
    known = _known()
    if name not in known:
        raise unknown_name("target", name, known)
    point = known[name]
    try:
        kind = point.load()
        taken = signature(kind).parameters
        for option in options or {}:
            if option not in taken:
                said = ", ".join(f"--{known.replace('_', '-')}" for known in taken) or "none"
                raise UsageError(f"target '{name}' takes no --{option.replace('_', '-')}", f"its options: {said}")
        found = kind(**(options or {}))
    except ScaDeployError:
        raise
    except Exception as error:
        # Whatever a plug-in's module raises while it is imported, the user can only mend the plug-in.
        raise UsageError(
            f"target '{name}' cannot be loaded from {point.value}: {type(error).__name__}: {error}",
            "mend or uninstall the package that provides it",
        ) from error
    if not isinstance(found, Exporter):
        raise UsageError(f"target '{name}' ({point.value}) is not an Exporter", "see sca_deploy.exporters.base")
    return found
