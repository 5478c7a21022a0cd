from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from sca_deploy.errors import ScaDeployError
from sca_deploy.hardware.program import INPUT, Dense, Layer, Program
from tests.hardware.programs import brute_force, programs


def layer(**changes):
    fields = {
        "name": "out",
        "shape": (2,),
        "synapses": (Dense(INPUT, np.array([[2, -4, 6], [0, 0, 254]], np.int32)),),
        "v_decay": 100,
        "threshold": 500,
        "bias": np.array([3, -4], np.int32),
    }
    return Layer(**(fields | changes))


def program(*layers):
    return Program((3,), 0, 4, layers or (layer(),), False)


@settings(max_examples=25)
@given(case=programs())
def test_a_saved_program_computes_what_it_did(case, tmp_path_factory):
    original, x = case
    path = tmp_path_factory.mktemp("program") / "p.npz"
    original.save(path)
    loaded, again = (brute_force(p, x) for p in (original, Program.load(path)))
    for name, record in loaded.items():
        np.testing.assert_array_equal(record["v"], again[name]["v"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": (1 << 17) + 1}, "threshold 131073 is outside 0 to 131072"),
        ({"threshold": -1}, "threshold -1"),
        ({"v_decay": 4097}, "v_decay 4097 is outside 0 to 4096"),
        ({"u_decay": -1}, "u_decay -1"),
        ({"bias": np.array([4096, 0], np.int32)}, "bias 4096 is outside -4096 to 4095"),
        ({"bias": np.zeros(3, np.int32)}, r"bias of shape \(3,\) for neurons \(2,\)"),
        ({"synapses": (Dense(INPUT, np.full((2, 3), 256, np.int32)),)}, "weight 256 is outside -256 to 254"),
        ({"synapses": (Dense(INPUT, np.full((2, 3), 3, np.int32)),)}, "odd weights"),
        ({"synapses": (Dense(INPUT, np.zeros((2, 4), np.int32)),)}, "dense synapse of 4 inputs"),
        ({"synapses": (Dense("later", np.zeros((2, 3), np.int32)),)}, "'later', which does not come before it"),
        ({"synapses": ()}, "no synapses"),
        ({"shape": (3,), "bias": np.zeros(3, np.int32)}, r"shape \(3,\), its synapse gives \(2,\)"),
    ],
)
def test_what_does_not_fit_the_chips_integers_is_refused(changes, message):
    with pytest.raises(ScaDeployError, match=message):
        program(layer(**changes))


def test_names_are_unique():
    with pytest.raises(ScaDeployError, match="two layers are called 'out'"):
        program(layer(), replace(layer(), synapses=(Dense("out", np.zeros((2, 2), np.int32)),)))


def test_every_truncation_of_a_file_is_one_clear_error(tmp_path):
    program().save(tmp_path / "p.npz")
    whole = (tmp_path / "p.npz").read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ScaDeployError, match=r"cut\.npz is not a readable Program"):
            Program.load(tmp_path / "cut.npz")


def test_a_file_with_pickled_objects_is_not_opened(tmp_path):
    np.savez(tmp_path / "p.npz", header=np.array([{"format": "anything"}], dtype=object))
    with pytest.raises(ScaDeployError, match="not a readable Program"):
        Program.load(tmp_path / "p.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ScaDeployError, match="no such file"):
        Program.load(tmp_path / "absent.npz")
