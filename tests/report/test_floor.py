"""The chip as a terminal shows it."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from typing import Any

import pytest

from sca_deploy.console import Surface
from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.floor_plan import floor_plan
from sca_deploy.hardware.mapping import map_program
from sca_deploy.hardware.program import INPUT, Conv, Program
from sca_deploy.report.floor import BLOCKS, floor_text
from tests.conftest import sca_deploy
from tests.hardware.test_placement import tiny
from tests.hardware.test_published_tables import layer, perceptron, pilotnet, weights

LOIHI2 = load_chip("loihi2")
PLAIN = Surface()
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def document(program: Program, chip: Chip = LOIHI2) -> dict[str, Any]:
    return floor_plan(program, map_program(program, chip), chip).as_dict()


def skies(*widths: int) -> Program:
    """Maps one above the other; on a chip of 4 neurons a core each takes one core a column."""
    layers, source = [], INPUT
    for number, width in enumerate(widths):
        # A kernel of so many columns makes the next map so much narrower.
        before = widths[number - 1] if number else width
        kernel = weights((1, 1, 1, 1 + before - width), 2, 2)
        layers.append(layer(f"sky{number}", (1, 4, width), Conv(source, kernel)))
        source = f"sky{number}"
    return Program((1, 4, widths[0]), 0, 1, tuple(layers), readout=False)


def test_a_cell_is_a_core_with_the_letter_of_its_layer_and_its_fill_in_tenths() -> None:
    assert floor_text(document(skies(9, 6), tiny(5, 100)), PLAIN).splitlines() == [
        "floor plan of loihi2 (placement estimated): 3 x 2 tiles of 2 cores a chip",
        "a cell is a core: its layer's letter, how full it is (in tenths); . is free",
        "",
        "chip 1 of 2: 12 of 12 cores  chip 2 of 2: 3 of 12 cores",
        "A8A8 A8A8 A8A8               B8B8 B8.  . .",
        "B8B8 A8B8 A8A8               . .  . .  . .",
        "",
        "layer   cores  full  of",
        "A sky0      9  80 %  neurons",
        "B sky1      6  80 %  neurons",
    ]


def test_every_core_of_a_chip_is_drawn_once() -> None:
    text = floor_text(document(pilotnet()), PLAIN)
    drawing = "\n".join(line for line in text.splitlines() if re.fullmatch(r"[A-J.0-9 ]+", line))
    mapping = map_program(pilotnet(), LOIHI2)
    letters = Counter(re.findall(r"[A-Z]", drawing))
    assert [letters["ABCDEFGHIJ"[i]] for i in range(10)] == [mapped.cores for mapped in mapping.layers]
    assert drawing.count(".") == 128 - mapping.cores


def test_the_legend_says_how_full_the_emptiest_and_the_fullest_core_are() -> None:
    text = floor_text(document(pilotnet()), PLAIN)
    # Cores of 4 and of 1 of 49 columns of 540 neurons.
    assert re.search(r"^C conv_1 +13 +\d+ to 53 %  neurons$", text, re.MULTILINE)


def test_four_chips_are_drawn_within_80_columns_and_the_others_counted() -> None:
    chip = tiny(4, 100)
    lines = floor_text(document(skies(1000), chip), PLAIN).splitlines()
    assert max(map(len, lines)) <= 80
    assert "and 80 more chips, 952 cores" in lines
    assert sum(line.count("chip ") for line in lines if line.startswith("chip ")) == 4


def test_two_whole_chips_of_loihi_lie_beside_each_other_in_80_columns() -> None:
    wide = layer("wide", (2000, 1, 500), Conv(INPUT, weights((2000, 1, 1, 1), 2, 2)))
    lines = floor_text(document(Program((1, 1, 500), 0, 1, (wide,), readout=False)), PLAIN).splitlines()
    assert max(map(len, lines)) <= 80
    assert "chip 1 of 2: 128 of 128 cores            chip 2 of 2: 122 of 128 cores" in lines


@pytest.mark.parametrize(("width", "shown"), [(38, "AA AA AA AB BB BB BB BB"), (22, "a chip is wider than 22 columns")])
def test_a_narrow_terminal_shows_letters_then_nothing(width: int, shown: str) -> None:
    text = floor_text(document(pilotnet()), Surface(width=width))
    assert shown in text
    assert "in tenths" not in text
    assert "A input_0" in text


def test_a_core_that_does_not_fit_stands_out() -> None:
    assert "A!A!" in floor_text(document(perceptron(20_000, 3)), PLAIN)


def test_layers_beyond_the_alphabet_share_a_sign() -> None:
    lines = floor_text(document(skies(*[1] * 54), tiny(5, 100)), PLAIN).splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["y", "z", "#", "#"]


def test_colours_add_nothing_that_the_letters_do_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    plan = document(pilotnet())
    coloured = floor_text(plan, Surface(colours=True, blocks=True))
    plain = floor_text(plan, Surface(blocks=True))
    assert ESCAPE.search(coloured)
    assert [line.rstrip() for line in ESCAPE.sub("", coloured).splitlines()] == plain.splitlines()
    assert set(plain) & set(BLOCKS)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"LANG": "en_US.UTF-8"}, Surface(100, colours=True, blocks=True)),
        ({"LANG": "C"}, Surface(100, colours=True, blocks=False)),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, Surface(100, colours=True, blocks=False)),
        ({"LANG": "de_DE.UTF-8", "NO_COLOR": "1"}, Surface(100, colours=False, blocks=True)),
        ({"LANG": "de_DE.UTF-8", "TERM": "dumb"}, Surface(100, colours=False, blocks=True)),
    ],
)
def test_a_terminal_is_taken_at_its_word(
    settings: dict[str, str], expected: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("LC_ALL", "LANG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **settings}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert Surface.of_stdout() == expected


def test_the_command_draws_in_plain_ascii_where_nobody_watches(tmp_path: Any) -> None:
    skies(9, 6).save(tmp_path / "skies.npz")
    done = sca_deploy("map", tmp_path / "skies.npz")
    assert done.returncode == 0, done.stderr
    assert "chip 1 of 1: 2 of 128 cores\nA0B0 . .  . .  " in done.stdout
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_the_document_holds_every_core(tmp_path: Any) -> None:
    import json

    skies(9, 6).save(tmp_path / "skies.npz")
    done = sca_deploy("map", tmp_path / "skies.npz", "--json")
    floor = json.loads(done.stdout)["floor"]
    assert floor == document(skies(9, 6))
