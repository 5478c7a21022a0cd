"""Cores of a narrower network, against a network that is really built so narrow."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sca_deploy.errors import UsageError
from sca_deploy.hardware.chip import load_chip
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.program import INPUT, Conv, Dense, Program
from sca_deploy.hardware.what_if import what_if
from sca_deploy.report.tables import what_if_table
from tests.conftest import sca_deploy
from tests.hardware.test_published_tables import layer, perceptron, pilotnet, weights

LOIHI2 = load_chip("loihi2")


def built(hidden: dict[str, int]) -> Program:
    """Two maps with a relayed sum, a recurrent layer and a read-out; the layers have so many channels."""
    a, b, c = (hidden[name] for name in "abc")
    side, kept = (24, 24), {"padding": (1, 1)}
    relay = Conv("a", np.full((a, 1, 1, 1), 2, np.int32), groups=a)
    own = Dense("c", weights((c, c), -256, 254), delay=1)
    layers = (
        layer("a", (a, *side), Conv(INPUT, weights((a, 2, 3, 3), -256, 254), **kept)),
        layer("a_relay", (a, *side), relay),
        layer("b", (b, *side), Conv("a_relay", weights((b, a, 3, 3), -256, 254), **kept)),
        layer("c", (c,), Dense("b", weights((c, b * 24 * 24), -256, 254)), own),
        layer("out", (10,), Dense("c", weights((10, c), -256, 254))),
    )
    return Program((2, *side), 0, 1, layers, readout=False)


WHOLE = {"a": 20, "b": 16, "c": 30}


@pytest.mark.parametrize("keep", [1.0, 0.8, 0.55, 0.5, 0.25, 0.01])
def test_a_fraction_takes_the_cores_of_a_network_of_so_many_channels(keep: float) -> None:
    narrow = {name: max(1, int(keep * size + 0.5)) for name, size in WHOLE.items()}
    (kept,) = what_if(built(WHOLE), LOIHI2, [keep]).asked
    mapping = map_program(built(narrow), LOIHI2)
    assert {name: kept.channels[name] for name in narrow} == narrow
    assert (kept.channels["a_relay"], kept.channels["out"]) == (narrow["a"], 10)
    assert (kept.cores, kept.compiler_like, kept.system) == (mapping.cores, mapping.compiler_like, mapping.system)


def test_the_steps_are_the_fractions_at_which_a_core_count_changes() -> None:
    program, fine = built(WHOLE), np.arange(1000, 99, -1) / 1000
    found = what_if(program, LOIHI2, [0.1])
    # Every thousandth on its own: the last step that is not below it must say what it takes.
    for kept in what_if(program, LOIHI2, fine.tolist()).asked:
        holds = [step for step in found.steps if step.keep >= kept.keep][-1]
        assert (kept.cores, kept.compiler_like) == (holds.cores, holds.compiler_like)
    counts = [(step.cores, step.compiler_like) for step in found.steps]
    assert found.steps[0].keep == 1
    assert len(counts) > 3
    assert all(one != following for one, following in pairwise(counts))


def test_without_fractions_the_steps_go_down_to_one_channel() -> None:
    last = what_if(built(WHOLE), LOIHI2, []).steps[-1]
    assert last.cores == map_program(built({"a": 1, "b": 1, "c": 1}), LOIHI2).cores


def test_an_injected_layer_keeps_its_channels() -> None:
    (kept,) = what_if(pilotnet(), LOIHI2, [0.5]).asked
    assert kept.channels["input_0"] == 3
    assert kept.channels["conv_4"] == 32
    assert kept.channels["fc_3"] == 1


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_refused(keep: float) -> None:
    with pytest.raises(UsageError, match="cannot be kept"):
        what_if(built(WHOLE), LOIHI2, [keep])


def test_the_table_lists_the_largest_of_many_steps_and_what_was_asked_for() -> None:
    document = what_if(perceptron(1000, 1000, 1000), LOIHI2, [0.5, 0.25]).as_dict()
    title, rows = what_if_table(document).split("system", 1)[0], what_if_table(document).splitlines()
    assert len(document["steps"]) > 31
    assert f"31 of {len(document['steps'])} steps, --json has all" in " ".join(title.split())
    assert sum(row.endswith("a step") for row in rows) <= 31
    assert [row.split()[0] for row in rows if row.endswith("asked")] == ["0.5", "0.25"]
    _, after = max(pairwise(document["steps"]), key=lambda pair: pair[0]["cores"] - pair[1]["cores"])
    assert any(row.split()[:2] == [f"{after['keep']:.4f}".rstrip("0"), str(after["cores"])] for row in rows)


def run(*arguments: Any) -> dict[str, Any]:
    done = sca_deploy("map", *arguments, "--json")
    assert done.returncode == 0
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_command_answers_fractions_in_its_document_and_draws_them(tmp_path: Path) -> None:
    built(WHOLE).save(tmp_path / "net.npz")
    document = run(tmp_path / "net.npz", "--keep", "0.5,0.25", "--plot", tmp_path / "steps.png")
    expected = what_if(built(WHOLE), LOIHI2, [0.5, 0.25]).as_dict()
    assert document["what_if"] == expected
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    wrong = sca_deploy("map", tmp_path / "net.npz", "--keep", "half")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--keep half does not hold fractions" in wrong.stderr
