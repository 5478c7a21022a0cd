"""The folder of Python that builds a network from Lava's processes. Running it is tests/hardware/test_lava.py."""

import ast
import json

import numpy as np
import pytest

from sca_deploy.errors import Mismatch, ScaDeployError, UsageError
from sca_deploy.exporters.base import Deployable, exporter
from sca_deploy.exporters.lava import check_processes, write_processes
from sca_deploy.files import sha256
from sca_deploy.hardware.program import INPUT, Conv, Dense, Layer, Program
from sca_deploy.recording import load_input
from sca_deploy.verification import exported_folder, verify_source
from tests.conftest import needs_lava


def weights(*shape):
    """Even integers that differ from one another."""
    return (2 * (np.arange(np.prod(shape)) % 97 - 40)).reshape(shape).astype(np.int32)


def layer(name, shape, *synapses, bias=0, **more):
    return Layer(name, shape, synapses, 500, 60, np.full(shape[:1], bias, np.int32), **more)


@pytest.fixture
def branching():
    """A sum of two paths, which no .net file holds, and a read-out."""
    shape, half = (3, 4, 5), (4, 2, 3)
    layers = (
        layer("a", shape, Conv(INPUT, weights(3, 2, 3, 3), padding=(1, 1)), bias=7),
        layer("skip", shape, Conv("a", np.full((3, 1, 1, 1), 64, np.int32), groups=3)),
        layer("b", shape, Conv("a", weights(3, 3, 3, 3), padding=(1, 1))),
        layer("sum", half, Conv("b", weights(4, 3, 3, 3), (2, 2), (1, 1)), Conv("skip", weights(4, 3, 1, 1), (2, 2))),
        layer("classes", (5,), Dense("sum", weights(5, 24)), Dense("a", weights(5, 60))),
    )
    return Program((2, 4, 5), 3, 6, layers, readout=False)


@pytest.fixture
def folder(branching, graph, tmp_path):
    exporter("lava").export(Deployable(graph, 1e-4, branching, manifest={"seed": 5}, title="net"), tmp_path / "out")
    return tmp_path / "out"


def test_the_folder_holds_five_files_and_their_hashes(folder):
    files = {"network.py", "weights.npz", "program.npz", "README.md"}
    assert {path.name for path in folder.iterdir()} == files | {"manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["target"], manifest["seed"]) == ("lava", 5)
    assert manifest["files"] == {name: sha256(folder / name) for name in files}


def test_the_exporter_says_what_it_checked(branching, graph, tmp_path):
    exported = exporter("lava").export(Deployable(graph, 1e-4, branching), tmp_path / "out")
    assert [str(check) for check in exported.checks] == [
        "re-read program.npz: maximum difference 0",
        "re-read weights.npz: maximum difference 0",
        "re-read network.py: maximum difference 0, not run yet",
    ]


def test_the_python_needs_nothing_but_lava_nc_and_numpy(folder):
    tree = ast.parse((folder / "network.py").read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    roots = {module.split(".")[0] for module in modules}
    assert roots == {"lava", "numpy", "pathlib", "sys"}
    assert not [module for module in modules if module.startswith("lava.lib")]


def test_the_python_is_plain_code_with_the_layers_as_variables(folder):
    text = (folder / "network.py").read_text()
    for line in (
        'a_from_input = Conv(weight=kernel("a_from_input"), input_shape=(5, 4, 2), padding=(1, 1), num_message_bits=3)',
        "spikes[0].connect(a_from_input.s_in)",
        'skip_from_a = Conv(weight=kernel("skip_from_a"), input_shape=(5, 4, 3), groups=3)',
        "b.s_out.connect(sum_from_b.s_in)",
        "sum_from_b.a_out.connect(sum.a_in)",
        "sum_from_skip.a_out.connect(sum.a_in)",
        'classes_from_a = DelayDense(weights=weights["classes_from_a.weight"], delays=2, sign_mode=SignMode.MIXED)',
        "a.s_out.transpose((2, 1, 0)).flatten().connect(classes_from_a.s_in)",
    ):
        assert f"    {line}\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_python_says_when_each_layer_runs(folder):
    text = (folder / "network.py").read_text()
    assert 'STAGES = {"a": 1, "skip": 2, "b": 2, "sum": 3, "classes": 4}' in text
    (docstring,) = [ast.get_docstring(ast.parse(text))]
    assert "    sum      3      4 x 2 x 3  b, skip\n" in docstring
    assert "    classes  4      5          sum, a (held up to 2 steps)\n" in docstring


@pytest.mark.parametrize("title", ['a """quoted""" title', "back\\slash", "two\nlines", "{braces}"])
def test_a_title_cannot_break_the_python(title, branching, tmp_path):
    write_processes(branching, tmp_path, title)
    compile((tmp_path / "network.py").read_text(), "network.py", "exec")


def test_an_older_export_is_replaced_and_nothing_else(folder, branching, graph):
    deployable = Deployable(graph, 1e-4, branching)
    exporter("lava").export(deployable, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ScaDeployError, match="is not a lava export"):
        exporter("lava").export(deployable, folder)


def test_a_network_without_integers_is_refused(graph, tmp_path):
    with pytest.raises(ScaDeployError, match="was not lowered"):
        exporter("lava").export(Deployable(graph, 1e-4), tmp_path / "out")


# What Lava's processes cannot hold.


@pytest.mark.parametrize(
    ("conv", "limit"),
    [
        (Conv(INPUT, np.zeros((1, 1, 1, 128), np.int32), padding=(0, 64)), "kernel 128 exceeds 127"),
        (Conv(INPUT, np.zeros((1, 1, 1, 1), np.int32), stride=(128, 1)), "stride 128 exceeds 127"),
        (Conv(INPUT, np.zeros((1, 1, 1, 1), np.int32), padding=(1, 128)), "padding 128 exceeds 127"),
        (Conv(INPUT, np.zeros((1, 1, 1, 2), np.int32), dilation=(128, 1)), "dilation 128 exceeds 127"),
    ],
)
def test_geometry_beyond_8_bits_is_refused_by_name(conv, limit, tmp_path):
    program = Program((1, 3, 8), 0, 4, (layer("wide", conv.output_shape((1, 3, 8)), conv),), readout=False)
    with pytest.raises(UsageError, match=f"layer 'wide': {limit}"):
        write_processes(program, tmp_path, "net")


def test_two_networks_without_a_connection_are_refused_by_name(tmp_path):
    layers = [layer(name, (3,), injected=True) for name in ("one", "two")]
    with pytest.raises(UsageError, match="layers 'one' and 'two' are not connected"):
        write_processes(Program((3,), 0, 4, tuple(layers), readout=False), tmp_path, "net")


# Damage.


@pytest.mark.parametrize("name", ["classes_from_sum.weight", "a.bias"])
def test_a_changed_number_is_named(name, folder, branching):
    with np.load(folder / "weights.npz") as held:
        arrays = dict(held)
    arrays[name] = arrays[name] + 2
    np.savez(folder / "weights.npz", **arrays)
    with pytest.raises(Mismatch, match=name):
        check_processes(branching, folder)


def test_a_cut_off_file_of_weights_is_named(folder, branching):
    path = folder / "weights.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ScaDeployError, match="weights.npz is not readable"):
        check_processes(branching, folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import sys\n", "import sys\nsys.exit(0)\n"),
        ('"""', '"""; import os; """'),
        ("network as Lava processes", 'network as Lava processes"""; import os; """'),
        ("dv=", "dv=1 + "),
        ("def build(", "def build(:"),
    ],
)
def test_python_that_is_not_what_the_program_is_exported_as_is_not_run(old, new, folder, branching):
    text = (folder / "network.py").read_text()
    assert old in text
    (folder / "network.py").write_text(text.replace(old, new, 1))
    with pytest.raises(Mismatch, match="network.py is not the Python that program.npz is exported as"):
        check_processes(branching, folder)


def test_any_title_reads_back(branching, tmp_path):
    for title in ("plain", 'say "hi": now\\', "a: b\nc", ""):
        write_processes(branching, tmp_path, title)
        check_processes(branching, tmp_path)


# The loihi2 folder, and verify.


@pytest.fixture
def loihi2(branching, graph, tmp_path):
    exporter("loihi2").export(Deployable(graph, 1e-4, branching, title="net"), tmp_path / "loihi2")
    return tmp_path / "loihi2"


def test_a_loihi2_folder_holds_processes_where_a_net_file_cannot_hold_the_network(loihi2):
    names = {path.name for path in loihi2.iterdir()}
    assert {"network.py", "weights.npz", "program.npz", "network.nir", "cores.json"} < names
    assert "network.net" not in names
    assert json.loads((loihi2 / "manifest.json").read_text())["network"] == "network.py"
    text = (loihi2 / "README.md").read_text()
    assert "because\nlayer 'b' reads a; a .net file is a chain, where it reads skip" in text
    assert "python network.py" in text
    assert "network.net" not in text


def test_a_loihi2_folder_holds_a_net_file_where_one_can_hold_the_network(graph, tmp_path):
    program = Program((5,), 0, 4, (layer("a", (4,), Dense(INPUT, weights(4, 5))),), readout=False)
    exporter("loihi2").export(Deployable(graph, 1e-4, program), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "network.net" in names
    assert "network.py" not in names
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["network"] == "network.net"
    assert (
        'hdf5.Network("network.net", reset_interval=4, reset_offset=1' in (tmp_path / "out" / "README.md").read_text()
    )


def test_a_folder_without_an_export_cannot_be_verified(tmp_path):
    with pytest.raises(ScaDeployError, match="holds no loihi2 or lava export"):
        exported_folder(tmp_path)


@needs_lava
@pytest.mark.parametrize("target", ["folder", "loihi2"])
def test_verify_runs_the_python_of_the_folder(target, request, tmp_path):
    place = request.getfixturevalue(target)
    x = np.random.default_rng(0).integers(0, 8, (2, 6, 2, 4, 5)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    result = verify_source(place, None, tmp_path / "x.npy", states=True, timeout=60, lava_python=None)
    assert (result.samples, result.mismatches) == (2, 0)
    assert [check.spikes > 0 for check in result.layers] == [True] * 5
    assert load_input(tmp_path / "x.npy").shape == x.shape
