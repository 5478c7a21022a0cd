"""Exit codes and their one clear line; stdout for results, stderr for everything else."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv

import h5py
import numpy as np
import pytest

from sca_deploy.hardware.program import INPUT, Dense, Layer, Program
from tests.conftest import ROOT, sca_deploy


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


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["compare", "one"], "compare"),
        (["run", "--epochs", "many"], "run"),
        (["data", "check"], "data check"),
        (["data", "chekc", "digits"], "data"),
    ],
)
def test_2_a_wrong_request_leads_to_the_help_of_its_own_command(arguments, command):
    error, fix = lines(sca_deploy(*arguments))
    assert fix == f"fix: see sca-deploy {command} --help", error


def test_1_what_is_not_there_cannot_be_verified(tmp_path):
    error, fix = lines(sca_deploy("verify", "nope", cwd=tmp_path))
    assert error == "error: no such file or folder: nope"
    assert fix == "fix: give a run, an arm, or a folder that export wrote"


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
    assert "/node/nodes/conv1/weight holds NaN" in error
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


def test_an_export_replaces_only_an_export(digits_run, tmp_path):
    mine = tmp_path / "webapp"
    (mine / "src").mkdir(parents=True)
    (mine / "manifest.json").write_text('{"name": "my app"}')
    (mine / "src" / "a.txt").write_text("precious")
    done = sca_deploy("export", digits_run, "-o", mine)
    error, _ = lines(done)
    assert done.returncode == 1
    assert "is not a loihi2 export" in error
    assert (mine / "src" / "a.txt").read_text() == "precious"


def test_an_export_into_the_folder_one_stands_in_replaces_it(digits_run, tmp_path):
    folder = tmp_path / "out"
    for _ in range(2):
        done = sca_deploy("export", digits_run / "pruned" / "network.nir", "--input-bits", 5, "-o", folder)
        assert done.returncode == 0, done.stderr
    done = sca_deploy("export", digits_run / "dense" / "network.nir", "--input-bits", 5, "-o", ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "cores.json").read_text())["cores"] > 10
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_2_a_file_is_never_written_over_its_own_source(digits_run, tmp_path):
    shutil.copy(digits_run / "pruned" / "network.nir", tmp_path / "mine.nir")
    before = (tmp_path / "mine.nir").read_bytes()
    done = sca_deploy("export", tmp_path / "mine.nir", "--target", "nir")
    assert done.returncode == 2
    assert "give --output" in lines(done)[1]
    assert (tmp_path / "mine.nir").read_bytes() == before


def small_chip(folder, cores):
    """Loihi 2 with fewer cores, and no system of more than one chip."""
    from sca_deploy.hardware.chip import load_chip

    text = load_chip("loihi2").path.read_text()
    kept = [part for part in re.split(r"(?m)^(?=\[)", text) if not re.match(r"\[systems\.(?!oheo-gulch)", part)]
    for table in ("[limits.cores]", "[systems.oheo-gulch.cores]"):
        (number,) = [n for n, part in enumerate(kept) if part.startswith(table)]
        kept[number] = re.sub(r"(?m)^value = .*$", f"value = {cores}", kept[number])
    path = folder / "small.toml"
    path.write_text("".join(kept))
    return path


def test_3_a_dense_network_that_does_not_fit_does_not_cost_the_pruned_one_its_results(tmp_path):
    chip = small_chip(tmp_path, 10)
    command = ["run", "digits", "--epochs", 3, "--train-samples", 300, "--chip", chip, "-o", tmp_path / "run"]
    done = sca_deploy(*command)
    assert done.returncode == 3
    assert "error: dense:" in done.stderr
    assert "pruned: verified against Lava" in done.stderr
    assert json.loads((tmp_path / "run" / "compare.json").read_text())["dense"]["cores"] > 10
    assert (tmp_path / "run" / "pruned" / "loihi2" / "network.net").is_file()
    assert not (tmp_path / "run" / "dense" / "loihi2").exists()
    assert (tmp_path / "run" / "report.html").is_file()


def test_5_a_run_without_lava_still_leaves_its_report(digits_run, tmp_path):
    run = tmp_path / "digits"
    shutil.copytree(digits_run, run)
    for arm in ("dense", "pruned"):
        (run / arm / "verify.json").unlink()
    (run / "report.html").unlink()
    venv.create(tmp_path / "empty", symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    done = sca_deploy("run", "digits", "--epochs", 6, "--lava-python", python, "-o", run)
    assert done.returncode == 5
    assert f"{run}/report.html" in done.stdout
    assert "not compared with Lava in this run" in (run / "report.html").read_text()


def test_compare_writes_the_report_it_is_asked_for(digits_run, tmp_path):
    page = tmp_path / "new" / "both.html"
    arms = [digits_run / "dense", digits_run / "pruned"]
    done = sca_deploy("compare", *arms, "--html", page)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"\nwritten: {page}\n")
    assert "<html" in page.read_text()
    plain = sca_deploy("compare", *arms)
    assert done.stdout.startswith(plain.stdout)
    document = json.loads(sca_deploy("compare", *arms, "--html", page, "--json").stdout)
    assert document == json.loads((digits_run / "compare.json").read_text())


def compared_on_a_terminal(folder, width):
    """The lines that a terminal of so many columns shows of a comparison."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "sca_deploy.cli", "compare", "dense", "pruned", "-q"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(width), "TERM": "xterm"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs) as running:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # Linux says so when the other side is closed
            while part := os.read(ours, 1024):
                text += part
    os.close(ours)
    assert running.returncode == 0
    return text.decode().splitlines()


def test_a_table_fits_the_terminal_and_a_pipe_gets_whole_lines(digits_run):
    piped = sca_deploy("compare", digits_run / "dense", digits_run / "pruned", "-q", COLUMNS="80").stdout
    assert max(map(len, compared_on_a_terminal(digits_run, 80))) <= 80
    assert compared_on_a_terminal(digits_run, 200) == piped.splitlines()
    assert max(map(len, piped.splitlines())) > 100


def test_a_report_says_which_of_its_parts_could_not_be_made(digits_run, tmp_path):
    run = tmp_path / "digits"
    shutil.copytree(digits_run, run)
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"set": "mnist", "folder": str(tmp_path / "gone")}
    (run / "config.json").write_text(json.dumps(config))
    figures = json.loads((run / "dense" / "evaluation.json").read_text())
    del figures["agreement"]
    (run / "dense" / "evaluation.json").write_text(json.dumps(figures))
    (run / "dense" / "verify.json").unlink()
    command = ["compare", run / "dense", run / "pruned", "--html", tmp_path / "report.html"]
    said = [line for line in sca_deploy(*command).stderr.splitlines() if line.startswith("report: ")]
    assert [line.split(": ")[1] for line in said] == [
        "no traces of dense",
        "no agreement of spikes of dense",
        "no traces of pruned",
    ]
    assert all(str(tmp_path / "gone") in line for line in said if "traces" in line)
    assert sca_deploy(*command, "-q").stderr == ""


def test_a_network_that_is_compared_with_itself_is_not_called_pruned(digits_run, tmp_path):
    shutil.copytree(digits_run / "pruned", tmp_path / "copy" / "pruned")
    for other in (digits_run / "pruned", tmp_path / "copy" / "pruned"):
        done = sca_deploy("compare", digits_run / "pruned", other)
        title, *_, last = done.stdout.splitlines()
        assert title == f"360 test samples: dense is {digits_run}/pruned, pruned is {other}"
        assert last == "warning: pruned: it is the same network as dense"
    usual = sca_deploy("compare", digits_run / "dense", digits_run / "pruned").stdout
    assert usual.splitlines()[0] == "360 test samples"
    assert "warning" not in usual


@pytest.mark.parametrize("name", ["report.htm", "report", "report.html.txt"])
def test_2_a_report_that_is_no_html_is_refused_before_any_work(tmp_path, name):
    done = sca_deploy("compare", "nowhere/dense", "nowhere/pruned", "--html", tmp_path / name)
    error, _ = lines(done)
    assert done.returncode == 2
    assert "does not end in .html" in error
    assert not list(tmp_path.iterdir())


def test_1_a_report_of_arms_that_are_not_there_is_not_begun(digits_run, tmp_path):
    done = sca_deploy("compare", digits_run / "dense", tmp_path / "gone", "--html", tmp_path / "report.html")
    error, _ = lines(done)
    assert done.returncode == 1
    assert "no such file or folder" in error
    assert not list(tmp_path.iterdir())


def test_1_a_full_disk_leaves_no_half_report(digits_run, tmp_path):
    """Files of more than a megabyte are refused, as a full disk would refuse them."""
    page = tmp_path / "report.html"
    command = f"ulimit -f 1000; exec {sys.executable} -m sca_deploy.cli compare dense pruned --html {page}"
    done = subprocess.run(["bash", "-c", command], cwd=digits_run, capture_output=True, text=True, timeout=200)
    error, _ = lines(done)
    assert done.returncode == 1
    assert f"cannot write {page}" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--chip", "loihi3"], "unknown chip 'loihi3'"),
        (["--keep", "0.1"], "the floor"),
        (["--data-folder", "nowhere"], "digits"),
    ],
)
def test_2_what_can_be_known_before_training_is_said_before_it_and_leaves_nothing(arguments, named, tmp_path):
    done = sca_deploy("run", "digits", *arguments, cwd=tmp_path)
    error, _ = lines(done)
    assert done.returncode == 2
    assert named in error
    assert not (tmp_path / "runs").exists()


LAYERS = """
[network]
layers = [
  {{ type = "conv", channels = 4, kernel = 3, {conv} }},
  {{ type = "batch_norm" }},
  {{ type = "lif", {lif} }},
  {{ type = "max_pool", kernel = 2, name = "p" }},
  {{ type = "flatten" }},
  {{ type = "linear", features = 8, {linear} }},
  {{ type = "batch_norm" }},
  {{ type = "lif" }},
  {{ type = "linear", features = 10 }},
]
"""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"conv": "stride = 0"}, "stride is 0"),
        ({"lif": "surrogate = 5"}, "surrogate is 5"),
        ({"lif": 'surrogate = "a"'}, "unknown surrogate 'a'"),
        ({"conv": 'name = "keys"'}, "'keys' cannot be used"),
        ({"linear": 'name = "p_or"'}, "'p_or' is taken"),
    ],
)
def test_2_a_network_that_cannot_be_built_is_named_before_training(changes, named, tmp_path):
    fields = {
        key: changes.get(key, filler)
        for key, filler in {"conv": "padding = 0", "lif": "beta = 0.5", "linear": "bias = true"}.items()
    }
    (tmp_path / "c.toml").write_text(LAYERS.format(**fields))
    done = sca_deploy("train", tmp_path / "c.toml", cwd=tmp_path)
    error, _ = lines(done)
    assert done.returncode == 2
    assert named in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", "null", '{"figures": '])
@pytest.mark.parametrize("file", ["config.json", "pruned/evaluation.json"])
def test_damaged_json_in_a_run_is_one_clear_line(digits_run, tmp_path, file, content):
    run = tmp_path / "digits"
    shutil.copytree(digits_run, run)
    (run / file).write_text(content)
    command = ["map", run] if file == "config.json" else ["compare", run / "dense", run / "pruned"]
    done = sca_deploy(*command)
    if file == "config.json" and content == "{}":
        assert done.returncode == 0  # an empty config means all defaults
        return
    lines(done)
    assert done.returncode in (1, 2)


def test_commands_work_from_inside_an_arm(digits_run):
    for command in (["map", "."], ["verify", ".", "--samples", 1], ["inspect", "loihi2"]):
        done = sca_deploy(*command, cwd=digits_run / "pruned")
        assert done.returncode == 0, done.stderr


def test_a_foreign_config_nearby_is_not_taken_for_a_runs(digits_run, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    shutil.copy(digits_run / "pruned" / "network.nir", tmp_path / "network.nir")
    done = sca_deploy("inspect", tmp_path / "network.nir", "--input-bits", 5)
    assert done.returncode == 0, done.stderr


def test_1_more_steps_than_the_read_out_has_room_for_are_refused(digits_run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 5, 1, 8, 8), np.uint8))
    done = sca_deploy("simulate", digits_run, "--input", tmp_path / "x.npy", "-o", tmp_path / "out.npz")
    error, fix = lines(done)
    assert done.returncode == 1
    assert "5 steps" in error
    assert "--steps 5" in fix


@pytest.mark.parametrize("dt", ["0", "-1e-4", "nan", "inf"])
def test_2_a_time_step_that_is_none_is_refused(digits_run, dt):
    done = sca_deploy("inspect", digits_run / "pruned" / "network.nir", "--input-bits", 5, "--dt", dt)
    lines(done)
    assert done.returncode == 2


def test_2_flags_for_graphs_are_not_ignored_for_integers(digits_run):
    done = sca_deploy("inspect", digits_run / "pruned" / "loihi2", "--steps", 99)
    assert done.returncode == 2
    assert "holds integers already" in lines(done)[0]


def test_1_a_soft_reset_is_refused_with_the_reason(digits_run, tmp_path):
    path = tmp_path / "soft.nir"
    shutil.copy(digits_run / "pruned" / "network.nir", path)
    with h5py.File(path, "r+") as file:
        del file["node/metadata/reset"]
        file["node/metadata/reset"] = "subtract"
    done = sca_deploy("inspect", path, "--input-bits", 5)
    assert done.returncode == 1
    assert "reset 'subtract'" in lines(done)[0]


def test_a_graph_outside_the_portable_profile_still_reaches_the_chip(tmp_path):
    import nir

    nodes = {
        "input": nir.Input({"input": np.array([6])}),
        "w": nir.Linear(np.random.default_rng(0).normal(size=(5, 6))),
        "lif": nir.LIF(*(np.full(5, v) for v in (5e-3, 2.0, 0.0, 0.3, 0.0))),
        "output": nir.Output({"output": np.array([5])}),
    }
    edges = [("input", "w"), ("w", "lif"), ("lif", "output")]
    nir.write(tmp_path / "foreign.nir", nir.NIRGraph(nodes, edges))
    flags = ["--dt", "1e-3", "--steps", 10, "--input-bits", 0]
    done = sca_deploy("export", tmp_path / "foreign.nir", *flags, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    x = np.random.default_rng(1).integers(0, 2, (3, 10, 6), np.uint8)
    np.save(tmp_path / "x.npy", x)
    done = sca_deploy("verify", tmp_path / "out", "--input", tmp_path / "x.npy", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"][0]["spikes"] > 0


def test_a_checkpoint_trained_further_than_the_compacted_network_is_what_counts(tmp_path):
    run = tmp_path / "run"
    command = ["train", "digits", "--train-samples", 200, "--test-samples", 50, "--epochs", 4, "-o", run]
    assert sca_deploy(*command).returncode == 0
    assert sca_deploy("compact", run).returncode == 0
    small = json.loads(sca_deploy("inspect", run, "--json").stdout)
    from sca_deploy.checkpoint import load_network, save_network

    network, extra = load_network(run / "pruned" / "train" / "checkpoint.pt")
    network.norms()["batch_norm1"].mask[:] = 1
    save_network(run / "pruned" / "train" / "checkpoint.pt", network, input_bits=extra["input_bits"])
    large = json.loads(sca_deploy("inspect", run, "--json").stdout)
    assert large["layers"][0]["shape"][0] == 32 > small["layers"][0]["shape"][0]
