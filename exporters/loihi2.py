"""Everything Loihi 2 needs of a network, in one folder.

network.net     lava-dl's HDF5 description, what `lava.lib.dl.netx.hdf5.Network` loads
program.npz     the integer Program, what the simulator runs
network.nir     the float graph it was lowered from
cores.json      the core table
manifest.json   versions, seed, config, hashes of all files
README.md       the model card
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.exporters.base import Check, Deployable, Exported
from sca_deploy.exporters.netx import net_difference, write_net
from sca_deploy.exporters.nir import write_nir
from sca_deploy.files import atomic_folder, read_json, sha256, write_json, write_text
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.mapping import Mapping, check_fits, map_program
from sca_deploy.hardware.program import Program

CARD = """# {title}

A spiking network as integers for {chip}. {neurons:,} neurons, {parameters:,} weights and biases,
{steps} time steps a sample.

- Input: {input}. Layer l (from 0) answers l + 1 steps later; see "Running" below.
- Output: {output}.
- Cores: {cores} (estimated from inferred storage rules; dense layers are a lower bound).

| layer | neurons | cores | synapse words a core | axons in | binding |
|---|---|---|---|---|---|
{table}

## Running

    from lava.lib.dl.netx import hdf5
    net = hdf5.Network("network.net", reset_interval={steps}, reset_offset=1, input_message_bits={bits})

Samples follow one another every {steps} steps; the state is reset in between. Layer l is read in steps
n * {steps} + l + 1 to n * {steps} + l + {steps} of sample n, counted from 0. `program.npz` holds the same
integers for the simulator: `sca-deploy simulate . --input x.npy`; `sca-deploy verify .` compares both.

## Limits

Simulated, not run on silicon. The `.net` file leaves mapping to the closed compiler, whose rules for cores
are not published.
{notes}"""


FILES = {"network.net", "program.npz", "network.nir", "cores.json", "manifest.json", "README.md"}


class Loihi2Exporter:
    """Writes the folder."""

    name = "loihi2"
    summary = "folder for Loihi 2: lava-dl .net, integer Program, NIR graph, core table, model card"
    suffix = ""
    integers = True
    probes = False

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write the folder, re-read every file in it, and check that the network fits the chip.

        Raises:
            DoesNotFit: if the network needs more than the chip has.
            ScaDeployError: if the network was not lowered, or a .net cannot hold it.
            Mismatch: if a file does not read back as it was written.
        """
        program = deployable.program
        if program is None:
            raise ScaDeployError(f"'{deployable.title}' was not lowered to integers", "give its steps and input bits")
        _refuse_to_replace(output)
        chip = deployable.chip or load_chip("loihi2")
        mapping = map_program(program, chip)
        check_fits(mapping, chip)
        with atomic_folder(output) as folder:
            converted = write_net(program, folder / "network.net")
            program.save(folder / "program.npz")
            checks = [
                Check("re-read network.net", float(net_difference(program, folder / "network.net"))),
                Check("re-read program.npz", float(_program_difference(program, folder / "program.npz"))),
                write_nir(deployable, folder / "network.nir"),
            ]
            write_json(folder / "cores.json", mapping.as_dict())
            write_text(folder / "README.md", _card(deployable.title, program, mapping, converted))
            files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            write_json(folder / "manifest.json", {**deployable.manifest, "target": self.name, "files": files})
        return Exported(self.name, output, tuple(checks))


def _refuse_to_replace(output: Path) -> None:
    """Only an older export is replaced, never anything else a user keeps there."""
    if not output.exists():
        return
    entries = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
    ours = entries <= FILES and "manifest.json" in entries
    if entries and not (ours and read_json(output / "manifest.json").get("target") == Loihi2Exporter.name):
        raise ScaDeployError(f"{output} exists and is not a loihi2 export", "choose another --output")


def _program_difference(program: Program, path: Path) -> int:
    """The largest difference between any integer of the Program and of its file.

    Raises:
        Mismatch: if a difference was found, or the structure differs.
    """
    read, worst = Program.load(path), 0
    for mine, theirs in zip(program.layers, read.layers, strict=True):
        numbers = [(mine.threshold, theirs.threshold), (mine.v_decay, theirs.v_decay), (mine.u_decay, theirs.u_decay)]
        arrays = [(mine.bias, theirs.bias)]
        arrays += [(a.weight, b.weight) for a, b in zip(mine.synapses, theirs.synapses, strict=True)]
        pairs: list[tuple[Any, Any]] = [*numbers, *arrays]
        worst = max(worst, *(int(np.abs(np.subtract(a, b)).max(initial=0)) for a, b in pairs))
    if worst:
        raise Mismatch(f"{path.name} differs by {worst} after writing")
    return worst


def _card(title: str, program: Program, mapping: Mapping, converted: tuple[str, ...]) -> str:
    graded = f"graded spikes of 0 to {program.input_max}" if program.input_bits else "binary spikes"
    rows = [
        f"| {m.name} | {m.neurons:,} | {'>= ' if m.lower_bound else ''}{m.cores} | {m.synapse_words:,} "
        f"| {m.axon_in:,} | {m.binding} |"
        for m in mapping.layers
    ]
    notes = f"Held as convolutions, because netx would change them as dense layers: {', '.join(converted)}.\n"
    last = program.layers[-1].name
    return CARD.format(
        title=title,
        chip=mapping.chip,
        neurons=sum(layer.neurons for layer in program.layers),
        parameters=program.parameters,
        steps=program.steps,
        bits=program.input_bits,
        input=f"{' x '.join(map(str, program.input_shape))} {graded}",
        output=f"the final `v` of '{last}', which cannot fire" if program.readout else f"spikes of '{last}'",
        cores=mapping.cores,
        table="\n".join(rows),
        notes=notes if converted else "",
    )
