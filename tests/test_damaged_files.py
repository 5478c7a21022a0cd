"""Over two hundred damaged files, opened as a user opens them: each is read soundly or refused in one line.

Files of five kinds are damaged in always the same ways: cut short, with flipped bits, and by hand, in the ways a
careless tool or an attacker finds. Every kind is opened in one process of its own that may not take a gigabyte more
than it has, so that a crash, an endless loop or a flood is seen as such.
"""

import json
import os
import pickle
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
import torch

from sca_deploy.checkpoint import FORMAT, save_network
from sca_deploy.exporters.base import Deployable
from sca_deploy.exporters.netx import write_net
from sca_deploy.exporters.nir import write_nir
from sca_deploy.graph import to_nir
from sca_deploy.hardware.lower import lower
from sca_deploy.nn.network import SpikingNetwork
from sca_deploy.nn.spec import NetworkSpec
from tests.conftest import ROOT, sca_deploy

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from sca_deploy.exporters.onnx import OnnxExporter  # noqa: E402
from sca_deploy.exporters.onnx_seal import sealed  # noqa: E402

KINDS = (".nir", ".net", ".pt", ".onnx", ".toml")
SECONDS, LINE = 2.0, 400
EXTRA_BYTES = 1 << 30
LAYERS = [
    {"type": "conv", "channels": 4, "kernel": 3, "padding": 1}, {"type": "batch_norm"}, {"type": "lif"},
    {"type": "avg_pool", "kernel": 2}, {"type": "flatten"},
    {"type": "linear", "features": 6}, {"type": "lif"}, {"type": "linear", "features": 3},
]  # fmt: skip
CONFIG = f"""name = "small"
seed = 1
[data]
set = "digits"
[network]
steps = 4
layers = [
{"".join("  { " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in layer.items()) + " }," + chr(10) for layer in LAYERS)}]
[train]
epochs = 1
[prune]
keep = 0.5
"""

OPENING = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from sca_deploy.artifact import Reading, open_artifact
from sca_deploy.config import load_config
from sca_deploy.errors import ScaDeployError
from sca_deploy.exporters.onnx_running import run_onnx

def opened(path):
    if path.suffix == ".toml":
        return load_config(path)
    if path.suffix == ".onnx":
        return run_onnx(path, np.ones((1, 4, 1, 8, 8), np.float32))
    given = {"steps": 4} if path.suffix == ".net" else {"input_bits": 0}
    return open_artifact(path, Reading(**given)).program

whole, *damaged = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: (path.stem != "whole", path.name))
opened(whole)  # imports what is needed before time and memory are taken
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in damaged:
    print(path.name, end=" ", flush=True)
    started, problem, other = time.process_time(), None, None
    try:
        opened(path)
    except ScaDeployError as error:
        problem = error.problem
    except BaseException as error:
        other = repr(error)[:300]
    print(json.dumps([problem, time.process_time() - started, other]), flush=True)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of each kind, with `whole` and the damaged files."""
    top = tmp_path_factory.mktemp("damaged")
    torch.manual_seed(3)
    network = SpikingNetwork(
        NetworkSpec.from_plain({"input_shape": [1, 8, 8], "steps": 4, "layers": LAYERS, "input_scale": 1.0})
    ).eval()
    graph = to_nir(network)
    whole = {kind: top / kind[1:] / f"whole{kind}" for kind in KINDS}
    for path in whole.values():
        path.parent.mkdir()
    deployable = Deployable(graph, graph.metadata["dt"])
    write_nir(deployable, whole[".nir"])
    write_net(lower(graph, dt=graph.metadata["dt"], steps=4, input_bits=0), whole[".net"])
    save_network(whole[".pt"], network)
    OnnxExporter().export(deployable, whole[".onnx"])
    whole[".toml"].write_text(CONFIG)
    for kind, path in whole.items():
        by_chance(path)
        BY_HAND[kind](path, path.parent)
    return top


def by_chance(path):
    """The file cut short in twelve places and with one to three flipped bits in twenty-four, bytes of zero spared."""
    content = path.read_bytes()
    rng = np.random.default_rng(sum(path.suffix.encode()))
    written = np.flatnonzero(np.frombuffer(content, np.uint8))
    cuts = [0, 1, 8, 100, *rng.integers(101, len(content), 6), len(content) - 2, len(content) - 1]
    for index, cut in enumerate(cuts):
        (path.parent / f"cut{index}{path.suffix}").write_bytes(content[:cut])
    for index in range(24):
        damaged = bytearray(content)
        for place in rng.choice(written, 1 + index % 3):
            damaged[place] ^= 1 << rng.integers(8)
        (path.parent / f"flip{index}{path.suffix}").write_bytes(damaged)


# By hand. What must not be opened at all is called bad_*.


def edits(whole, folder, changes):
    """Copies of an HDF5 file, each changed by a function of the open file."""
    for name, change in changes.items():
        path = folder / f"bad_{name}{whole.suffix}"
        path.write_bytes(whole.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)


def instead(place, value, **how):
    """The member replaced by another value, or by a dataset that is only declared."""

    def change(file):
        if place in file:
            del file[place]
        if how:
            file.create_dataset(place, **how)
        elif value is not None:
            file[place] = value

    return change


def outside(place, secret):
    """The member's values kept in another file, in the two ways HDF5 has."""

    def external(file):
        shape = file[place].shape
        del file[place]
        file.create_dataset(place, shape, "f4", external=[(str(secret), 0, 1 << 20)])

    def virtual(file):
        shape = file[place].shape
        layout = h5py.VirtualLayout(shape, "f4")
        layout[:] = h5py.VirtualSource(str(secret), "weight", shape)
        del file[place]
        file.create_virtual_dataset(place, layout)

    return {"external_storage": external, "virtual": virtual}


def bomb(place):
    """A small chunk that unpacks to 64 MiB."""

    def change(file):
        del file[place]
        dataset = file.create_dataset(place, (16, 16), "f4", chunks=(16, 16), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 26), 9))

    return change


def common_edits(secret, group, weight, kind):
    """What both kinds of HDF5 files suffer, at a node, its weight, and its type."""
    huge = {"dtype": "f4", "shape": (1 << 14, 1 << 14)}
    return {
        "missing_group": instead(group, None), "missing_weight": instead(weight, None),
        "missing_type": instead(kind, None), "type_is_number": instead(kind, 5),
        "type_is_unknown": instead(kind, "Odd"),
        "type_is_empty": instead(kind, h5py.Empty("f4")), "type_of_a_megabyte": instead(kind, "x" * (1 << 20)),
        "type_is_no_text": instead(kind, np.bytes_(b"\xff\xfe\x1b[31m")),
        "weight_is_text": instead(weight, "many"),
        "weight_is_group": lambda file: (instead(weight, None)(file), file.create_group(weight)),
        "weight_is_scalar": instead(weight, 1.0), "weight_is_complex": instead(weight, np.ones((3, 3), complex)),
        "weight_is_compound": instead(weight, np.zeros(4, [("a", "f4"), ("b", "i4")])),
        "weight_is_objects": instead(weight, None, shape=(3,), dtype=h5py.vlen_dtype(np.float32)),
        "weight_is_references": instead(weight, None, shape=(3,), dtype=h5py.ref_dtype),
        "weight_is_nan": instead(weight, np.full((6, 64), np.nan, np.float32)),
        "weight_is_infinite": instead(weight, np.full((6, 64), np.inf, np.float32)),
        "weight_has_no_values": instead(weight, np.zeros((6, 0), np.float32)),
        "weight_of_five_axes": instead(weight, np.zeros((2, 2, 2, 2, 2), np.float32)),
        "weight_claims_a_gigabyte": instead(weight, None, **huge),
        "weight_claims_chunks": instead(weight, None, chunks=(1 << 12, 1 << 12), **huge),
        "weight_claims_terabytes": instead(weight, None, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64)),
        "weight_is_a_bomb": bomb(weight),
        "weight_external_link": instead(weight, h5py.ExternalLink(str(secret), "weight")),
        "weight_soft_link": instead(weight, h5py.SoftLink("/secret")),
        "group_external_link": instead(group, h5py.ExternalLink(str(secret), "/")),
        "group_soft_link": instead(group, h5py.SoftLink(group)),
        **outside(weight, secret),
    }  # fmt: skip


def nir_by_hand(whole, folder):
    """Graphs that cannot be meant, lead out of the file or have no end."""
    secret = folder.parent / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["weight"] = np.zeros((6, 64), np.float32)
    nodes = "node/nodes"
    with h5py.File(whole) as file:
        lif = next(f"{nodes}/{name}" for name, node in file[nodes].items() if node["type"][()] == b"LIF")
        matrix = next(f"{nodes}/{name}" for name, node in file[nodes].items() if node["type"][()] == b"Affine")
        conv = next(f"{nodes}/{name}" for name, node in file[nodes].items() if node["type"][()] == b"Conv2d")

    def edges(*pairs):
        return instead("node/edges", np.array(pairs, h5py.string_dtype()))

    edits(whole, folder, common_edits(secret, matrix, f"{matrix}/weight", f"{matrix}/type") | {
        "no_nodes": instead(nodes, None), "no_edges": instead("node/edges", None), "no_node": instead("node", None),
        "edges_are_numbers": instead("node/edges", np.ones((3, 2))), "edges_lead_nowhere": edges(("input", "nobody")),
        "edges_of_three": instead("node/edges", np.array([["a", "b", "c"]], h5py.string_dtype())),
        "edges_claim": instead("node/edges", None, shape=(1 << 22, 2), dtype=h5py.string_dtype()),
        "edges_in_a_circle": edges(("input", conv.split("/")[-1]), (conv.split("/")[-1], conv.split("/")[-1])),
        "tau_negative": instead(f"{lif}/tau", np.float32(-1)), "tau_zero": instead(f"{lif}/tau", np.float32(0)),
        "tau_nan": instead(f"{lif}/tau", np.float32(np.nan)), "no_tau": instead(f"{lif}/tau", None),
        "no_threshold": instead(f"{lif}/v_threshold", None), "tau_of_others": instead(f"{lif}/tau", np.ones(5)),
        "stride_zero": instead(f"{conv}/stride", 0), "stride_huge": instead(f"{conv}/stride", 1 << 40),
        "padding_huge": instead(f"{conv}/padding", 1 << 15), "padding_word": instead(f"{conv}/padding", "full"),
        "groups_zero": instead(f"{conv}/groups", 0), "groups_seven": instead(f"{conv}/groups", 7),
        "input_huge": instead(f"{nodes}/input/shape", [1 << 20, 1 << 20, 8]),
        "input_negative": instead(f"{nodes}/input/shape", [-1, 8, 8]), "no_input": instead(f"{nodes}/input", None),
        "holds_itself": lambda file: file[nodes].__setitem__("again", file["node"]),
        "node_twice": lambda file: file[nodes].__setitem__("again", file[conv]),
        "metadata_holds_itself": lambda file: file["node/metadata"].__setitem__("deep", file["node/metadata"]),
        "metadata_external": instead("node/metadata/x", h5py.ExternalLink(str(secret), "weight")),
        "dt_is_text": instead("node/metadata/dt", "soon"), "reset_is_unknown": instead("node/metadata/reset", "never"),
        "type_is_graph": instead(f"{matrix}/type", "NIRGraph"),
    })  # fmt: skip
    deep = folder / "bad_deep.nir"
    graph = nir.NIRGraph({}, [], type_check=False)
    for _ in range(40):
        graph = nir.NIRGraph({"inner": graph}, [], type_check=False)
    nir.write(deep, graph)


def net_by_hand(whole, folder):
    """Layers that cannot be meant, lead out of the file or claim too much."""
    secret = folder.parent / "secret.h5"
    with h5py.File(whole) as file:
        dense = next(f"layer/{i}" for i in file["layer"] if file[f"layer/{i}/type"][()].ravel()[0][:5] == b"dense")
    edits(whole, folder, common_edits(secret, dense, f"{dense}/weight", f"{dense}/type") | {
        "no_layers": instead("layer", None), "no_shape": instead(f"{dense}/shape", None),
        "shape_negative": instead(f"{dense}/shape", [-6, 1, 1]), "shape_huge": instead(f"{dense}/shape", [1 << 20] * 3),
        "weight_odd": instead(f"{dense}/weight", np.ones((6, 64), np.float32)),
        "weight_of_many_bits": instead(f"{dense}/weight", np.full((6, 64), 1 << 20)),
        "decay_huge": instead(f"{dense}/neuron/vDecay", 1 << 30),
        "decay_nan": instead(f"{dense}/neuron/vDecay", np.nan),
        "no_neuron_type": instead(f"{dense}/neuron/type", None),
        "holds_itself": lambda file: (instead("layer/0", None)(file), file["layer"].__setitem__("0", file["layer"])),
    })  # fmt: skip


class Command:
    """Unpickled, it leaves a file; nobody must do that."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pt_by_hand(whole, folder):
    """Documents that are not networks, and pickles with code."""
    document = torch.load(whole, weights_only=True)
    first, last = next(iter(document["state"])), list(document["state"])[-1]

    def state(**changes):
        return document | {"state": {name: changes.get(name, value) for name, value in document["state"].items()}}

    def spec(**changes):
        return document | {"spec": document["spec"] | changes}

    def layers(index, **changes):
        tables = [dict(table) for table in document["spec"]["layers"]]
        tables[index] |= changes
        return spec(layers=tables)

    weight = document["state"][first]
    for name, value in {
        "list": [1, 2], "tensor": torch.ones(3), "other_format": document | {"format": "sca-deploy network 99"},
        "no_state": {"format": FORMAT, "spec": document["spec"]}, "no_spec": {"format": FORMAT, "state": {}},
        "empty_state": document | {"state": {}}, "state_is_list": document | {"state": [1]},
        "nan": state(**{first: weight * np.nan}), "infinite": state(**{last: document["state"][last] / 0}),
        "wrong_shape": state(**{first: weight[:2]}), "text_weight": state(**{first: "weight"}),
        "complex": state(**{first: weight.to(torch.complex64)}), "sparse": state(**{first: weight.to_sparse()}),
        "integers": state(**{first: weight.to(torch.int64)}),
        "endless_view": state(**{first: torch.zeros(1).expand(1 << 40)}),
        "unknown_key": document | {"state": document["state"] | {"more": weight}},
        "no_layers": spec(layers=[]), "huge_features": layers(5, features=1 << 34),
        "huge_conv": layers(0, channels=1 << 31),
        "negative": layers(5, features=-3), "huge_input": spec(input_shape=[1, 1 << 20, 1 << 20]),
        "huge_kernel": layers(0, kernel=1 << 20, padding=1 << 20), "unknown_layer": layers(2, type="surprise"),
        "graph_is_text": {"format": FORMAT, "graph": "graph", "state": {}},
        "graph_is_empty": {"format": FORMAT, "graph": {}, "state": {}},
    }.items():  # fmt: skip
        torch.save(value, folder / f"bad_{name}.pt")
    (folder / "bad_pickle.pt").write_bytes(pickle.dumps(Command(folder / "ran1")))
    torch.save({"format": FORMAT, "spec": Command(folder / "ran2")}, folder / "bad_code.pt")
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(folder / "bad_zip.pt", "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, bytes(1 << 28) if name.endswith("data/0") else archive.read(name))


def onnx_by_hand(whole, folder):
    """Models that are not ours, reach out of the folder or claim too much, and were sealed all the same."""
    (folder.parent / "secret.bin").write_bytes(bytes(4096))

    def model(name, change, seal=True):
        changed = onnx.load(whole)
        del changed.metadata_props[[entry.key for entry in changed.metadata_props].index("sha256")]
        change(changed)
        content = sealed(changed) if seal else changed.SerializeToString()
        (folder / f"bad_{name}.onnx").write_bytes(content)

    def reaching(place):
        def change(model):
            tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)

        return change

    def claiming(model):
        model.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]

    def in_a_circle(model):
        first, last = model.graph.node[0], model.graph.node[-1]
        first.input[0] = last.output[0]

    def unmade(model):
        del model.graph.node[:]

    def foreign(model):
        model.graph.node[0].domain = "com.example"
        model.opset_import.add(domain="com.example", version=1)

    def formless(model):
        del model.metadata_props[:]

    def unknown(model):
        model.graph.node[0].op_type = "Surprise"

    def typed(model):
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING

    changes = {
        "above": reaching("../secret.bin"), "absolute": reaching("/etc/hostname"), "missing": reaching("nobody.bin"),
        "huge": claiming, "circle": in_a_circle, "empty": unmade, "operator": foreign, "formless": formless,
        "unknown": unknown, "strings": typed, "future": lambda model: setattr(model, "ir_version", 9999),
        "no_opset": lambda model: model.ClearField("opset_import"),
    }  # fmt: skip
    for name, change in changes.items():
        model(name, change)
    model("unsealed", lambda model: None, seal=False)
    (folder / "bad_text.onnx").write_text("onnx")


def toml_by_hand(whole, folder):
    """Configs that cannot be meant."""
    text = whole.read_text()
    changes = {
        "syntax": text.replace("]\n[train]", "\n[train]"), "twice": text + "\n[prune]\nkeep = 0.1\n",
        "unknown_key": text + "surprise = 1\n", "unknown_table": text + "[surprise]\na = 1\n",
        "text_for_number": text.replace("steps = 4", 'steps = "four"'), "nan": text.replace("0.5", "nan"),
        "infinite": text.replace("epochs = 1", "lr = inf"), "negative": text.replace("steps = 4", "steps = -4"),
        "huge": text.replace("steps = 4", "steps = 99999999999999999999"),
        "table": text.replace("seed = 1", "seed = {}"),
        "boolean": text.replace("steps = 4", "steps = true"), "keep": text.replace("keep = 0.5", "keep = 7"),
        "no_layers": text.replace("layers", "layer"),
        "list": text.replace("seed = 1", "seed = [1, 2]"),
        "name": text.replace('"small"', '"../../small"'), "name_of_lines": text.replace('"small"', '"a\\nb"'),
        "date": text.replace("seed = 1", "seed = 2020-01-01"), "study": text + "[study]\nseeds = [1]\n",
        "deep": "a = " + "[" * 100_000, "huge_number": "seed = " + "9" * 100_000,
        "deep_key": ".".join("a" * 5000) + " = 1",
    }  # fmt: skip
    for name, changed in changes.items():
        (folder / f"bad_{name}.toml").write_text(changed)
    (folder / "bad_latin.toml").write_bytes(b'name = "\xe9"\n')
    (folder / "bad_zeros.toml").write_bytes(bytes(4096))


BY_HAND = {".nir": nir_by_hand, ".net": net_by_hand, ".pt": pt_by_hand, ".onnx": onnx_by_hand, ".toml": toml_by_hand}


def present(folder):
    """What lies in a folder, with sizes."""
    return {str(path): path.stat().st_size for path in folder.rglob("*")}


@pytest.fixture(scope="module", params=KINDS)
def outcomes(corpus, request):
    """By file: the line it was refused with (None: opened), the seconds it took, and any other exception."""
    before, folder = present(corpus), corpus / request.param[1:]
    done = subprocess.run(
        [sys.executable, "-c", OPENING, str(folder), str(EXTRA_BYTES)],
        capture_output=True, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]} ended with {done.returncode}: {done.stderr[-800:]}"
    assert present(corpus) == before, "a file was written, or changed"
    found = {name: json.loads(rest) for name, rest in lines}
    assert len(found) == len(list(folder.iterdir())) - 1
    return found


def test_the_corpus_has_more_than_two_hundred_files_of_five_kinds(corpus):
    counts = {kind: len(list(corpus.glob(f"*/*{kind}"))) - 1 for kind in KINDS}
    assert sum(counts.values()) >= 200
    assert min(counts.values()) >= 40


def test_a_damaged_file_is_opened_or_refused_with_an_error_of_ours_and_nothing_is_written(outcomes):
    assert not {name: other for name, (_, _, other) in outcomes.items() if other is not None}


def test_every_refusal_is_one_line_that_does_not_speak_of_memory(outcomes):
    for name, (problem, _, _) in outcomes.items():
        if problem is not None:
            assert problem, name
            assert problem.isprintable(), f"{name}: {problem!r}"
            assert len(problem) < LINE, f"{name}: {problem}"
            assert not any(word in problem for word in ("MemoryError", "memory", "alloc")), f"{name}: {problem}"


def test_every_file_is_done_within_two_seconds(outcomes):
    assert not {name: seconds for name, (_, seconds, _) in outcomes.items() if seconds > SECONDS}


def test_what_was_damaged_by_hand_is_refused(outcomes):
    assert [name for name, (problem, _, _) in outcomes.items() if name.startswith("bad_") and problem is None] == []


def test_what_was_cut_short_is_refused(outcomes):
    cut = {name: problem for name, (problem, _, _) in outcomes.items() if name.startswith("cut")}
    assert len(cut) == 12
    # A config may end earlier and be one.
    assert all(problem is not None or name.endswith(".toml") for name, problem in cut.items())


REPRESENTATIVE = [
    "bad_weight_external_link.nir", "bad_holds_itself.nir", "bad_weight_is_nan.nir", "cut5.nir",
    "bad_weight_is_a_bomb.net", "cut3.net", "bad_virtual.net",
    "bad_code.pt", "bad_pickle.pt", "bad_huge_features.pt", "cut7.pt",
]  # fmt: skip


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_command_line_gives_an_error_a_fix_and_nothing_else(name, corpus):
    before = present(corpus)
    done = sca_deploy("inspect", corpus / Path(name).suffix[1:] / name, *FLAGS[Path(name).suffix], cwd=corpus)
    assert_one_error(done)
    assert present(corpus) == before


@pytest.mark.parametrize("name", ["bad_deep.toml", "bad_name_of_lines.toml"])
def test_the_command_line_refuses_a_damaged_config_likewise(name, corpus):
    before = present(corpus)
    assert_one_error(sca_deploy("train", corpus / "toml" / name, cwd=corpus))
    assert present(corpus) == before


FLAGS = {".nir": ["--input-bits", "0"], ".net": ["--steps", "4"], ".pt": []}


def assert_one_error(done):
    """Exit code 1 or 2, an error line, at most a fix line, and nothing on stdout."""
    assert done.returncode in (1, 2), done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert len(rest) <= 1
    assert all(line.startswith("fix: ") for line in rest)
    assert done.stdout == ""
