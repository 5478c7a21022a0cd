"""What is printed may differ from what a page shows in what a machine decides, and in nothing else."""

from __future__ import annotations

import re

import pytest

from tests.docs.comparing import compare

RUN = """\
360 test samples
                                      dense                       pruned  pruned / dense
accuracy, float                     99.17 %                      98.33 %           0.992  measured
channels                                224                           67           0.299  measured
parameters                          151,306                       10,507           0.069  measured
synaptic operations a sample      1,234,693                       77,940           0.063  simulated
neurocores                            >= 19                            4           0.211  estimated
  their hops from tile to tile       97,638                            0           0.000  estimated
time of a step         391 us (40.8 to 456)       40.1 us (4.09 to 50.2)           0.103  estimated, prices inferred

written: runs/digits/compare.json
"""
OTHER_PROCESSOR = """\
360 test samples
                                      dense                       pruned  pruned / dense
accuracy, float                     99.17 %                      98.89 %           0.997  measured
channels                                224                           67           0.299  measured
parameters                          151,306                       10,507           0.069  measured
synaptic operations a sample      1,239,656                       75,601           0.061  simulated
neurocores                            >= 19                            4           0.211  estimated
  their hops from tile to tile       97,469                            0           0.000  estimated
time of a step         391 us (40.8 to 457)       38.5 us (3.93 to 48.4)           0.099  estimated, prices inferred

written: runs/digits/compare.json
"""
"""The same command with `ATEN_CPU_CAPABILITY=default`: torch without vector instructions."""

INSPECT = """\
digits-pruned: input 1x8x8 (5-bit graded spikes), 4 steps, 1,337 neurons, 37,579 integers
layer                synapse  neurons  weights  zero  max |w|  max |bias|  threshold  beta  alpha
lif1     conv 3x3 from input    8x8x8       72    0%      238        1834       1698   0.5  0
lif2      conv 3x3 from lif1   12x8x8      864    1%      254         283        221   0.5  0
"""
INSPECT_AVX2 = """\
digits-pruned: input 1x8x8 (5-bit graded spikes), 4 steps, 1,337 neurons, 37,579 integers
layer                synapse  neurons  weights  zero  max |w|  max |bias|  threshold  beta  alpha
lif1     conv 3x3 from input    8x8x8       72    0%      254        2172       1995   0.5  0
lif2      conv 3x3 from lif1   12x8x8      864    1%      254         477        290   0.5  0
"""
VERIFY = """\
32 samples, 4 steps, simulator against Lava
layer    values compared  spikes  mismatches
lif1              65,536  13,798  0
linear2            2,560       0  0

0 mismatches
"""
SHOWN = [RUN, INSPECT, VERIFY]


def differences(expected: str, printed: str, smaller: bool = False) -> list[str]:
    return [str(found) for found in compare(expected.splitlines(), printed.splitlines(), smaller)]


def same(expected: str, printed: str, smaller: bool = False) -> bool:
    return not differences(expected, printed, smaller)


@pytest.mark.parametrize("text", SHOWN)
@pytest.mark.parametrize("smaller", [False, True])
def test_a_text_is_as_shown_if_nothing_changed(text: str, smaller: bool) -> None:
    assert same(text, text, smaller)


@pytest.mark.parametrize(("ours", "theirs"), [(RUN, OTHER_PROCESSOR), (INSPECT, INSPECT_AVX2)])
def test_what_another_processor_rounds_otherwise_is_as_shown(ours: str, theirs: str) -> None:
    assert ours != theirs
    assert same(ours, theirs)
    assert same(theirs, ours)


@pytest.mark.parametrize("smaller", [False, True])
@pytest.mark.parametrize("text", SHOWN)
def test_every_changed_word_is_found(text: str, smaller: bool) -> None:
    for word in re.finditer(r"[A-Za-z|/]+[A-Za-z|/0-9]*", text):
        changed = f"{text[: word.start()]}{word.group()}s{text[word.end() :]}"
        assert not same(text, changed, smaller), word.group()


@pytest.mark.parametrize("smaller", [False, True])
@pytest.mark.parametrize("text", SHOWN)
def test_every_line_that_is_missing_twice_or_moved_is_found(text: str, smaller: bool) -> None:
    lines = [line for line in text.splitlines() if line]
    for at, line in enumerate(lines):
        assert compare(lines, lines[:at] + lines[at + 1 :], smaller), line
        assert compare(lines, [*lines[:at], line, *lines[at:]], smaller), line
        if at:
            assert compare(lines, [*lines[: at - 1], line, lines[at - 1], *lines[at + 1 :]], smaller), line


@pytest.mark.parametrize("text", SHOWN)
@pytest.mark.parametrize("factor", [10, 0.1])
def test_every_number_that_is_wrong_by_an_order_of_magnitude_is_found(text: str, factor: float) -> None:
    for number in re.finditer(r"(?<![\w.,])(\d[\d,]*(\.\d+)?)(?=[\s%)])", text):
        value = float(number.group().replace(",", ""))
        if value == 0 or (value < 1 and factor < 1 and round(value * factor, 3) == value):
            continue
        decimals = len(number.group().partition(".")[2])
        other = f"{value * factor:.{decimals}f}"
        changed = f"{text[: number.start()]}{other}{text[number.end() :]}"
        tiny_share = text[number.end()] == "%" and value <= 1
        assert tiny_share or not same(text, changed), f"{number.group()} -> {other}"


@pytest.mark.parametrize("smaller", [False, True])
@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("0 mismatches", "3 mismatches"),
        ("3 mismatches", "4 mismatches"),
        (
            "layer  spikes  mismatches\nlif1      120           0",
            "layer  spikes  mismatches\nlif1      120           1",
        ),
        (
            "layer  spikes  mismatches\nlif1      120           7",
            "layer  spikes  mismatches\nlif1      120           8",
        ),
        ("0 of 401,408 spikes differ", "2 of 401,408 spikes differ"),
        ("maximum difference 0", "maximum difference 1"),
        ("opset 17, 5 spikes", "opset 18, 5 spikes"),
        ("give --steps 16 or more", "give --steps 17 or more"),
        ("keep  cores\n0.8       9", "keep  cores\n0.7       9"),
        ("norse 1.1.0 is here", "norse 1.1.1 is here"),
        ("conv 3x3 from lif1", "conv 5x5 from lif1"),
        ("8x8x8 neurons", "8x9x8 neurons"),
        ("5-bit spikes", "6-bit spikes"),
        ("cores 5", "cores -5"),
        ("98 % kept", "98 kept"),
        (">= 19 cores", "19 cores"),
        ("room for  -", "room for  4"),
    ],
)
def test_what_no_machine_decides_is_equal(shown: str, printed: str, smaller: bool) -> None:
    assert not same(shown, printed, smaller)


@pytest.mark.parametrize(
    ("shown", "least", "most", "too_small", "too_large"),
    [
        ("{:,} spikes", 1_000, 1_800, 900, 1_900),
        ("accuracy {:.2f} %", 93.4, 100.0, 93.2, 110.0),
        ("full to {:.0f} %", 67, 78, 60, 84),
        ("ratio {:.3f}", 0.046, 0.083, 0.045, 0.085),
        ("wrong {:.1f} %", 0.1, 2.0, -0.1, 2.2),
        ("{:d} cores", 3, 5, 2, 6),
        ("difference {:.2e}", 1e-7, 2e-5, -2e-4, 2e-4),
    ],
)
def test_what_a_machine_decides_may_be_about_as_large(
    shown: str, least: float, most: float, too_small: float, too_large: float
) -> None:
    middle = {1_000: 1_350, 93.4: 98.33, 67: 72, 0.046: 0.062, 0.1: 1.1, 3: 4, 1e-7: 2.3e-6}[least]
    text = shown.format(middle)
    assert [same(text, shown.format(value)) for value in (least, most)] == [True, True]
    assert [same(text, shown.format(value)) for value in (too_small, too_large)] == [False, False]


def test_a_residue_of_rounding_may_vanish_but_not_appear() -> None:
    assert same("maximum difference 2.2e-06", "maximum difference 0")
    assert not same("maximum difference 0", "maximum difference 2.2e-06")


def test_one_core_more_than_one_changes_the_words_with_it() -> None:
    assert not same("1 core of loihi2", "2 cores of loihi2")


def test_channels_of_a_shape_may_differ_a_little() -> None:
    assert same("lif1  8x8x8", "lif1  9x8x8")
    assert not same("lif1  8x8x8", "lif1  16x8x8")


def test_cores_of_a_floor_plan_may_be_a_little_fuller_and_hold_the_same_layers() -> None:
    assert same("A1B7 . .  . .", "A2B8 . .  . .")
    assert not same("A1B7 . .  . .", "A1B3 . .  . .")
    assert not same("A1B7 . .  . .", "A1C7 . .  . .")


def test_a_time_by_the_clock_may_be_any() -> None:
    assert same("done in 2.1 s on 16 chips", "done in 341.0 s on 16 chips")
    assert not same("a step takes 2.1 us", "a step takes 341.0 us")


def test_numbers_of_a_smaller_form_are_free_and_nothing_is_something_is_not() -> None:
    shown = "100 test samples\nlif1  38,440 spikes  12.5 ms"
    assert same(shown, "10 test samples\nlif1  7 spikes  8871.0 ms", smaller=True)
    assert not same(shown, "10 test samples\nlif1  0 spikes  8871.0 ms", smaller=True)
    assert not same(shown, "10 test samples\nlif2  7 spikes  8871.0 ms", smaller=True)


def test_columns_lines_and_boxes_are_drawn_as_one_likes() -> None:
    assert same("a   1\n\nb  22", "┌──┬──┐\n│ a │ 1 │\n├──┼──┤\n│ b │ 22 │\n└──┴──┘")


def test_three_dots_stand_for_any_lines_in_between() -> None:
    shown = "first\n...\nmiddle 7\n...\nlast"
    assert same(shown, "first\nmiddle 7\nlast")
    assert same(shown, "first\nx\ny\nmiddle 7\nz\nlast")
    assert not same(shown, "x\nfirst\nmiddle 7\nlast")
    assert not same(shown, "first\nmiddle 7\nlast\nx")
    assert not same(shown, "first\nx\nlast")
    assert not same(shown, "first\nmiddle 70\nlast")
    assert not same("b\n...\na", "a\nb")
    assert same("...\nlast", "x\nlast")
    assert same("first\n...", "first\nx")


def test_a_line_is_not_shown_twice_by_one_that_is_printed_once() -> None:
    assert not same("a\n...\na", "a")
    assert not same("...\na\n...\na\n...", "x\na\ny")


def test_three_dots_in_a_line_stand_for_any_words() -> None:
    assert same("torch ... is here", "torch 2.13.0+cpu on 2 cores is here")
    assert same("torch ...", "torch")
    assert not same("torch ... is here", "torch 2.13.0+cpu is gone")
    assert not same("torch ... is here", "torch is")


def test_a_difference_says_where_what_and_why() -> None:
    assert differences(VERIFY, VERIFY.replace("0 mismatches", "3 mismatches")) == [
        "  - 0 mismatches\n  + 3 mismatches\n    3 is not 0, a number of mismatches"
    ]
    without = VERIFY.replace("linear2            2,560       0  0\n", "")
    assert differences(VERIFY, without) == ["  - linear2            2,560       0  0\n    the line is missing"]
    [found] = compare(VERIFY.splitlines(), [*VERIFY.splitlines()[:-1], "1 mismatches"])
    assert found.line == 5
