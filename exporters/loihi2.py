"""Everything Loihi 2 needs of a network, in one folder.

network.net     lava-dl's HDF5 description, what `lava.lib.dl.netx.hdf5.Network` loads; or, where such a file
                cannot hold the network, network.py and weights.npz, which build it from Lava's own processes
program.npz     the integer Program, what the simulator runs
network.nir     the float graph it was lowered from
cores.json      the core table
manifest.json   versions, seed, config, hashes of all files
README.md       the model card
"""

from __future__ import annotations

from pathlib import Path

from sca_deploy.errors import UsageError
from sca_deploy.exporters import lava
from sca_deploy.exporters.base import Check, Deployable, Exported
from sca_deploy.exporters.netx import net_difference, write_net
from sca_deploy.exporters.nir import write_nir
from sca_deploy.files import atomic_folder, write_json, write_text
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.mapping import Mapping, check_fits, map_program
from sca_deploy.hardware.program import Program

NET = "network.net"
FILES = {NET, *lava.FILES, "network.nir", "cores.json"}

CARD = """# {title}

A spiking network as integers for {chip}. {neurons:,} neurons, {parameters:,} weights and biases,
{steps} time steps a sample.

- Input: {input}.
- Output: {output}.
- Cores: {cores} (estimated from inferred storage rules; dense layers are a lower bound).

| layer | stage | neurons | cores | synapse words a core | axons in | binding |
|---|---|---|---|---|---|---|
{table}

## Running

{running}
`program.npz` holds the same integers for the simulator: `sca-deploy simulate . --input x.npy`;
`sca-deploy verify .` compares both.

## Limits

Simulated, not run on silicon. Which layer goes to which core is left to the closed compiler, whose rules
are not published.
{notes}"""

TIMING = """
A layer answers every step of the input `stage` steps later (see the table){samples}.
"""
RUN_NET = """    from lava.lib.dl.netx import hdf5
    net = hdf5.Network("network.net", reset_interval={steps}, reset_offset={first}, input_message_bits={bits})

Samples follow one another every {steps} steps; the state is reset in between.
"""
RUN_CARRYING_NET = """    from lava.lib.dl.netx import hdf5
    net = hdf5.Network("network.net", input_message_bits={bits})

Spikes of one sample can still be on their way when it ends, so every sample takes a run of its own, in which the
biases of a layer are switched on at its stage.
"""
RUN_PROCESSES = """    python network.py input.npy output.npz

`network.py` builds the network from Lava's own processes (lava-nc 0.10.0, Python 3.10), because
{reason}.
"""


class Loihi2Exporter:
    """Writes the folder."""

    name = "loihi2"
    summary = "folder for Loihi 2: lava-dl .net or Lava processes, integer Program, NIR graph, core table, model card"
    suffix = ""
    integers = True
    probes = False

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write the folder, re-read every file in it, and check that the network fits the chip.

        Raises:
            DoesNotFit: if the network needs more than the chip has.
            UsageError: if neither a .net file nor Lava's processes can hold it.
            ScaDeployError: if the network was not lowered, or something else is in the way.
            Mismatch: if a file does not read back as it was written.
        """
        program = deployable.lowered
        lava.refuse_to_replace(output, self.name, FILES)
        chip = deployable.chip or load_chip("loihi2")
        mapping = map_program(program, chip)
        check_fits(mapping, chip)
        with atomic_folder(output) as folder:
            checks, running, notes = _write_network(program, folder, deployable.title)
            checks += [
                lava.write_program(program, folder / "program.npz"),
                write_nir(deployable, folder / "network.nir"),
            ]
            write_json(folder / "cores.json", mapping.as_dict())
            write_text(folder / "README.md", _card(deployable.title, program, mapping, running, notes))
            lava.write_manifest(folder, self.name, {**deployable.manifest, "network": network_file(folder).name})
        return Exported(self.name, output, tuple(checks))


def network_file(folder: Path) -> Path:
    """What Lava runs of an exported loihi2 or lava folder: its network.net, else its network.py."""
    return folder / NET if (folder / NET).is_file() else folder / lava.SOURCE


def _write_network(program: Program, folder: Path, title: str) -> tuple[list[Check], str, str]:
    """The network as a .net file, else as processes; the checks, how to run it, and what else is to be said."""
    try:
        converted = write_net(program, folder / NET)
    except UsageError as reason:
        (folder / NET).unlink(missing_ok=True)
        checks = lava.write_processes(program, folder, title)
        return checks, RUN_PROCESSES.format(reason=reason.problem) + _timing(program), ""
    numbers = {"steps": program.steps, "bits": program.input_bits, "first": program.stages[program.layers[0].name]}
    checks = [Check(f"re-read {NET}", float(net_difference(program, folder / NET)))]
    notes = f"Held as convolutions, because netx would change them as dense layers: {', '.join(converted)}.\n"
    running = (RUN_CARRYING_NET if program.carries else RUN_NET).format(**numbers) + _timing(program)
    return checks, running, notes if converted else ""


def _timing(program: Program) -> str:
    """When the layers are to be read."""
    first = f"n * {program.steps} + stage"
    follow = f",\nin steps {first} to {first} + {program.steps - 1} of sample n, counted from 0"
    return TIMING.format(samples="" if program.carries else follow)


def _card(title: str, program: Program, mapping: Mapping, running: str, notes: str) -> str:
    graded = f"graded spikes of 0 to {program.input_max}" if program.input_bits else "binary spikes"
    kind = f"biases of {program.input_min} to {program.input_max}, one a step" if program.injected else graded
    rows = [
        f"| {m.name} | {program.stages[m.name]} | {m.neurons:,} | {'>= ' if m.lower_bound else ''}{m.cores} "
        f"| {m.synapse_words:,} | {m.axon_in:,} | {m.binding} |"
        for m in mapping.layers
    ]
    last = program.layers[-1].name
    return CARD.format(
        title=title,
        chip=mapping.chip,
        neurons=sum(layer.neurons for layer in program.layers),
        parameters=program.parameters,
        steps=program.steps,
        input=f"{' x '.join(map(str, program.input_shape))} {kind}",
        output=f"the final `v` of '{last}', which cannot fire" if program.readout else f"spikes of '{last}'",
        cores=mapping.cores,
        table="\n".join(rows),
        running=running,
        notes=notes,
    )
