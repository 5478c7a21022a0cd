"""Exit codes and their one clear line; stdout for results, stderr for everything else."""

import json
import shutil
import sys
import venv

import h5py
import numpy as np
import pytest

from sca_deploy.hardware.program import INPUT, Dense, Layer, Program
from tests.conftest import sca_deploy


def lines(done):
    """The error line and the fix line; nothing else may be on stderr."""
    assert "Traceback" not in done.stderr
    error, *rest = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert all(line.startswith("fix: ") for line in rest)
    assert len(rest) <= 1
    return error, " ".join(rest)


def test_2_an_unknown_target_is_answered_with_the_nearest(digits_run):
    done = sca_deploy("export", digits_run, "--target", "lohi2")
    error, fix = lines(done)
    assert done.returncode == 2
    assert "unknown target 'lohi2'" in error
    assert "did you mean 'loihi2'?" in fix


def test_2_an_unknown_command_is_answered_with_the_nearest():
    done = sca_deploy("exprot")
    error, fix = lines(done)
    assert done.returncode == 2
    assert "'exprot'" in error
    assert "did you mean 'export'?" in fix


def test_1_a_truncated_checkpoint(digits_run, tmp_path):
    whole = (digits_run / "pruned" / "train" / "checkpoint.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    done = sca_deploy("export", tmp_path / "cut.pt", "-o", tmp_path / "out")
    error, _ = lines(done)
    assert done.returncode == 1
    assert "cut.pt is damaged" in error
    assert not (tmp_path / "out").exists()


def test_3_a_network_that_does_not_fit_the_chip(tmp_path):
    # 400 neurons, each with 17,000 inputs: more axons than a core has.
    layer = Layer("wide", (400,), (Dense(INPUT, np.full((400, 17_000), 2, np.int32)),), 0, 9, np.zeros(400, np.int32))
    Program((17_000,), 0, 4, (layer,), False).save(tmp_path / "wide.npz")
    done = sca_deploy("map", tmp_path / "wide.npz")
    error, _ = lines(done)
    assert done.returncode == 3
    assert "'wide'" in error


def test_4_a_tampered_program_against_lava(digits_run, tmp_path):
    folder = tmp_path / "loihi2"
    shutil.copytree(digits_run / "pruned" / "loihi2", folder)
    program = Program.load(folder / "program.npz")
    program.layers[1].synapses[0].weight[0] += 40
    program.save(folder / "program.npz")
    x = np.random.default_rng(0).integers(0, 17, (4, 4, 1, 8, 8), np.uint8)
    np.save(tmp_path / "x.npy", x)
    done = sca_deploy("verify", folder, "--input", tmp_path / "x.npy", "--samples", 4, "-q")
    error, _ = lines(done)
    assert done.returncode == 4
    assert "layer 'lif2', sample" in error


def test_5_no_lava(digits_run, tmp_path):
    venv.create(tmp_path / "empty", symlinks=True)
    done = sca_deploy("verify", digits_run, "--lava-python", tmp_path / "empty" / "bin" / "python")
    error, fix = lines(done)
    assert done.returncode == 5
    assert "Lava" in error
    assert "pip install" in fix


def test_a_gap_in_the_installation_is_also_found_by_env(tmp_path):
    venv.create(tmp_path / "empty", symlinks=True)
    done = sca_deploy("env", "--json", "--lava-python", tmp_path / "empty" / "bin" / "python")
    assert done.returncode == 0
    assert json.loads(done.stdout)["lava"].startswith("not usable")


def test_env_names_the_versions_the_numbers_depend_on():
    found = json.loads(sca_deploy("env", "--json").stdout)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["lava"] == "usable"
    assert {"torch", "numpy", "nir", "lava-nc", "lava-dl"} <= set(found)


def test_targets_lists_what_export_knows():
    assert set(json.loads(sca_deploy("targets", "--json").stdout)) >= {"loihi2", "nir", "onnx"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["map", "absent"],
        ["map", "absent.pt"],
        ["simulate", "absent", "--input", "x.npy"],
        ["verify", "absent"],
        ["compare", "absent", "absent"],
        ["compact", "absent"],
        ["inspect", __file__],
    ],
)
def test_1_what_is_not_there_is_named(arguments, tmp_path):
    done = sca_deploy(*arguments, cwd=tmp_path)
    error, _ = lines(done)
    assert done.returncode == 1
    assert "absent" in error or "test_cli" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "nowhere.toml"],
        ["run", "--keep", "1.5"],
        ["run", "--epochs", "many"],
        ["run", "--no-such-flag"],
        ["export", "--dt"],
        ["simulate", "x.npz"],
    ],
)
def test_2_a_wrong_request_is_one_line(arguments, tmp_path):
    done = sca_deploy(*arguments, cwd=tmp_path)
    lines(done)
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["network.nir", "network.net", "program.npz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_1_a_truncated_export_is_named(digits_run, tmp_path, name, kept):
    folder = tmp_path / "loihi2"
    shutil.copytree(digits_run / "pruned" / "loihi2", folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(kept * len(whole))])
    np.save(tmp_path / "x.npy", np.zeros((1, 4, 1, 8, 8), np.uint8))
    command = ["map", folder / name, "--input-bits", 5] if name == "network.nir" else ["verify", folder]
    flags = [] if name == "network.nir" else ["--input", tmp_path / "x.npy", "--samples", 1]
    done = sca_deploy(*command, *flags)
    error, _ = lines(done)
    assert done.returncode == 1
    assert name in error


def test_1_a_graph_with_nan_is_named(digits_run, tmp_path):
    path = tmp_path / "network.nir"
    shutil.copy(digits_run / "pruned" / "network.nir", path)
    with h5py.File(path, "r+") as file:
        file["node/nodes/conv1/weight"][0, 0, 0, 0] = np.nan
    done = sca_deploy("inspect", path, "--input-bits", 5)
    error, _ = lines(done)
    assert done.returncode == 1
    assert "'conv1'" in error
    assert "NaN" in error


def test_debug_shows_the_traceback():
    done = sca_deploy("map", "absent", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_json_is_the_only_thing_on_stdout_and_quiet_silences_progress(digits_run):
    done = sca_deploy("verify", digits_run, "--samples", 1, "--json", "-q")
    json.loads(done.stdout)
    assert done.stderr == ""


def test_the_installed_wheel_runs_the_whole_pipe_from_an_empty_folder(installed_wheel, bare_environment, tmp_path):
    import subprocess

    command = [str(installed_wheel.parent / "sca-deploy"), "run", "--epochs", "2", "--train-samples", "200", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=bare_environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "runs" / "digits" / "compare.json").read_text())
