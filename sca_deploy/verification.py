"""`verify`: which files and which real input go to the comparison with Lava."""

from __future__ import annotations

import os
from pathlib import Path

from sca_deploy.artifact import ARMS, arm_folder, open_artifact
from sca_deploy.errors import ScaDeployError, UsageError
from sca_deploy.exporters.lava import check_processes
from sca_deploy.exporters.loihi2 import network_file
from sca_deploy.exporters.netx import read_net
from sca_deploy.files import sha256, write_json
from sca_deploy.hardware.lava.compare import Verification, verify
from sca_deploy.hardware.program import Program
from sca_deploy.pipeline import encoded_test
from sca_deploy.recording import load_input

SAMPLES = 32
SOURCES = "give a run, an arm, or a folder that export wrote"


def verify_source(
    source: Path, samples: int | None, input_path: Path | None, states: bool, timeout: float, lava_python: str | None
) -> Verification:
    """Compare the exported Program with the exported network of a run, an arm, or a loihi2 or lava folder.

    What Lava runs is the file in the folder: network.net, or network.py, whose Python is executed. Where the run's
    own test set was compared, what came of it is left in the arm's verify.json, which reports show.

    Args:
        samples: how many test samples, or samples of `input_path`, to compare; None is 32, or all if fewer.
        input_path: .npy of (samples, steps, *input_shape); None takes the run's test set.

    Raises:
        ScaDeployError: if nothing was exported, or there are fewer samples.
        MissingExtra: if Lava is not installed.
    """
    folder = exported_folder(source)
    program, network = Program.load(folder / "program.npz"), network_file(folder)
    # A damaged file is named here; Lava would only fail on it.
    if network.suffix == ".py":
        check_processes(program, folder)
    else:
        read_net(network)
    if input_path is not None:
        x = load_input(input_path, program.input_shape)
    else:
        config = open_artifact(folder).config
        if config is None:
            raise UsageError(f"{source} belongs to no run, so there is no test set", "give --input x.npy")
        x = encoded_test(config)
    if samples is not None and len(x) < samples:
        raise UsageError(f"--samples {samples} asks for more than the {len(x)} there are")
    result = verify(program, network, x[: samples or SAMPLES], states=states, python=lava_python, timeout=timeout)
    if input_path is None and folder.resolve().parent.name in ARMS:
        _keep(result, folder.resolve())
    return result


def _keep(result: Verification, folder: Path) -> None:
    """Write what came of an exported folder beside it, if the arm still runs the Program in it; a mismatch too."""
    arm = folder.parent
    if (arm / "program.npz").is_file() and sha256(arm / "program.npz") == sha256(folder / "program.npz"):
        write_json(arm / "verify.json", result.as_dict())


def exported_folder(source: Path) -> Path:
    """The folder itself, else the exported one of a run or an arm.

    Raises:
        ScaDeployError: if there is none.
    """
    if source.is_file():
        raise ScaDeployError(f"{source} is a file", SOURCES)
    if not source.exists():
        raise ScaDeployError(f"no such file or folder: {source}", SOURCES)
    arm = arm_folder(source)
    for folder in (source, arm / "loihi2", arm / "lava"):
        if network_file(folder).is_file() and (folder / "program.npz").is_file():
            return folder
    raise ScaDeployError(f"{source} holds no loihi2 or lava export", f"sca-deploy export {source} --target loihi2")


def outdated_report(source: Path) -> Path | None:
    """The run folder of what was verified, if its report does not know of it; None otherwise.

    Args:
        source: as `verify_source` takes it.
    """
    arm = exported_folder(source).resolve().parent
    said, page = arm / "verify.json", arm.parent / "report.html"
    if arm.name not in ARMS or not (said.is_file() and page.is_file()):
        return None
    if page.stat().st_mtime_ns >= said.stat().st_mtime_ns:
        return None
    return arm.parent if source.is_absolute() else Path(os.path.relpath(arm.parent))
