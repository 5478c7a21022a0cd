"""A network as Lava's own processes, for what a `.net` file cannot hold and for whoever wants to read it.

network.py      builds and runs the network with lava-nc alone
weights.npz     its weights, delays and biases
program.npz     the integer Program, what the simulator runs
manifest.json   versions, seed, config, hashes of all files
README.md       a short card
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sca_deploy.errors import Mismatch, ScaDeployError
from sca_deploy.exporters.base import Check, Deployable, Exported
from sca_deploy.exporters.lava_source import arrays, populations, source_text
from sca_deploy.files import atomic_folder, atomic_path, read_json, sha256, write_json, write_text
from sca_deploy.hardware.program import Conv, IntArray, Layer, Program, Synapse

SOURCE, WEIGHTS = "network.py", "weights.npz"
FILES = {SOURCE, WEIGHTS, "program.npz", "manifest.json", "README.md"}
CARD = """# {title}

A spiking network of {neurons:,} neurons as Lava processes, in integers. `network.py` needs lava-nc 0.10.0 (which
is for Python 3.10) and says in its first lines what goes in, what comes out and when each layer runs:

    python network.py input.npy output.npz

`program.npz` holds the same integers for the simulator; `sca-deploy verify . --input input.npy` runs both and
compares every spike, also on newer Pythons. The network was simulated, not run on silicon.
"""


class LavaExporter:
    """Writes the folder."""

    name = "lava"
    summary = "folder of Python that builds the network from Lava's own processes, sums of paths and delays included"
    suffix = ""
    integers = True
    probes = False

    def export(self, deployable: Deployable, output: Path) -> Exported:
        """Write the folder, and re-read every file in it. `sca-deploy verify` runs its Python.

        Raises:
            UsageError: if Lava's processes cannot hold the network; the layer and the limit are named.
            ScaDeployError: if the network was not lowered, or something else is in the way.
            Mismatch: if a file does not read back as it was written.
        """
        program = deployable.lowered
        refuse_to_replace(output, self.name, FILES)
        with atomic_folder(output) as folder:
            checks = [write_program(program, folder / "program.npz")]
            checks += write_processes(program, folder, deployable.title)
            neurons = sum(layer.neurons for layer in program.layers)
            write_text(folder / "README.md", CARD.format(title=deployable.title, neurons=neurons))
            write_manifest(folder, self.name, deployable.manifest)
        return Exported(self.name, output, tuple(checks))


def write_processes(program: Program, folder: Path, title: str) -> list[Check]:
    """Write network.py and weights.npz into a folder, and check both.

    Raises:
        UsageError: if Lava's processes cannot hold the Program; the layer and the limit are named.
        Mismatch: if the weights do not read back as they were written.
    """
    held = arrays(populations(program))
    write_text(folder / SOURCE, source_text(program, title))
    with atomic_path(folder / WEIGHTS) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **held)
    check_processes(program, folder)
    return [
        Check(f"re-read {WEIGHTS}", 0.0),
        Check(f"re-read {SOURCE}", 0.0, "not run yet"),
    ]


def check_processes(program: Program, folder: Path) -> None:
    """Refuse a folder whose weights or Python are not what the Program is exported as: that Python will be run.

    Raises:
        ScaDeployError: if a file is missing or damaged.
        Mismatch: if a weight, delay or bias differs, or a line of the Python.
    """
    expected, read = arrays(populations(program)), _read_arrays(folder / WEIGHTS)
    for name, mine in expected.items():
        theirs = read.get(name)
        if theirs is None or theirs.shape != mine.shape or not np.array_equal(mine, theirs):
            raise Mismatch(f"{folder / WEIGHTS}: {name} is not the network's", "export it again")
    path = folder / SOURCE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScaDeployError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ScaDeployError(f"{path} is not text ({error})", "export it again") from error
    title = re.match(r'"""([^"\\\n]*): a spiking network as', text)
    if title is None or text != source_text(program, title[1]):
        raise Mismatch(f"{path} is not the Python that program.npz is exported as, so it is not run", "export it again")


def _read_arrays(path: Path) -> Mapping[str, IntArray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ScaDeployError(f"no such file: {path}") from error
    except Exception as error:
        # A damaged zip fails in many ways (zlib, zipfile, struct, value errors).
        raise ScaDeployError(f"{path} is not readable ({type(error).__name__}: {error})", "export it again") from error


def refuse_to_replace(output: Path, target: str, files: set[str]) -> None:
    """Only an older export of the same target is replaced, never anything else a user keeps there.

    Raises:
        ScaDeployError: if something else is there.
    """
    if not output.exists():
        return
    entries = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
    ours = entries <= files and "manifest.json" in entries
    if entries and not (ours and read_json(output / "manifest.json").get("target") == target):
        raise ScaDeployError(f"{output} exists and is not a {target} export", "choose another --output")


def write_manifest(folder: Path, target: str, manifest: Mapping[str, object]) -> None:
    """Write manifest.json with the hashes of all other files in the folder."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / "manifest.json", {**manifest, "target": target, "files": files})


def write_program(program: Program, path: Path) -> Check:
    """Write program.npz and read it back.

    Raises:
        Mismatch: if anything differs.
    """
    program.save(path)
    read = Program.load(path)
    same = [getattr(program, what) == getattr(read, what) for what in ("input_shape", "input_bits", "steps", "readout")]
    same += [_same_layer(*pair) for pair in zip(program.layers, read.layers, strict=True)]
    if not all(same):
        raise Mismatch(f"{path.name} differs after writing")
    return Check(f"re-read {path.name}", 0.0)


def _same_layer(mine: Layer, theirs: Layer) -> bool:
    fields = ("name", "shape", "v_decay", "u_decay", "threshold", "scale", "injected")
    return (
        all(getattr(mine, field) == getattr(theirs, field) for field in fields)
        and np.array_equal(mine.bias, theirs.bias)
        and all(_same_synapse(*pair) for pair in zip(mine.synapses, theirs.synapses, strict=True))
    )


def _same_synapse(mine: Synapse, theirs: Synapse) -> bool:
    if type(mine) is not type(theirs) or mine.source != theirs.source or not np.array_equal(mine.weight, theirs.weight):
        return False
    if isinstance(mine, Conv):
        return all(
            getattr(mine, field) == getattr(theirs, field) for field in ("stride", "padding", "dilation", "groups")
        )
    return not isinstance(theirs, Conv) and np.array_equal(mine.delay, theirs.delay)
