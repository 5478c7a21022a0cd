"""The notebooks run from top to bottom in a fresh kernel, and what they keep is what they print."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

import sca_deploy as sd
from tests.conftest import ROOT, needs_lava

FOLDER = ROOT / "notebooks"
NAMES = [
    "01_quickstart",
    "02_bring_your_own",
    "03_what_pruning_frees",
    "04_float_to_chip",
    "05_events",
    "06_from_a_budget_to_an_export",
]
SIZE_LIMIT = 600_000
DOCUMENTED = {"sca_deploy", "sca_deploy.data.saccade"}
OTHERS = {"matplotlib", "nir", "numpy", "sklearn", "snntorch", "torch"}
KINDS = ("measured", "simulated", "estimated")

every_notebook = pytest.mark.parametrize("name", NAMES)


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


RUNS = [
    pytest.param("01_quickstart", marks=needs_lava),
    pytest.param("02_bring_your_own", marks=[needs_lava, needs("snntorch")]),
    pytest.param("03_what_pruning_frees"),
    pytest.param("04_float_to_chip", marks=needs_lava),
    pytest.param("05_events", marks=needs("tonic")),
    pytest.param("06_from_a_budget_to_an_export", marks=needs_lava),
]


def kept(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def trees(name: str) -> Iterator[ast.AST]:
    """The Python cells, parsed; what a terminal runs is left out."""
    return (ast.parse(cell.source) for cell in code(kept(name)) if not cell.source.startswith("%%"))


# What a run prints


NUMBER = re.compile(r"(?<![\w.])[-+<>=±]*\s?\d")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MISMATCHES = re.compile(r"(\d+) mismatch|mismatches: (\d+)")


def stable(line: str) -> tuple[str, ...]:
    """What a line is about, what kind of figure it gives, and how many mismatches.

    The words before its first number are the same on every machine. The numbers are not, since training rounds
    otherwise elsewhere, nor are the words behind them, such as what fills a core. Mismatches are compared.
    """
    plain = COLOUR.sub("", line)
    number = NUMBER.search(plain)
    head = plain if number is None else plain[: number.start()]
    kinds = [kind for kind in KINDS if kind in plain]
    mismatches = [first or second for first, second in MISMATCHES.findall(plain)]
    # Drawings are made of single signs.
    return (*re.findall(r"[^\W\d_]{2}[\w.'-]*", head), *kinds, *mismatches)


def outline(cell: NotebookNode) -> list[object]:
    """The outputs of a cell: of text the stable part of each line, of pictures that there is one."""
    found: list[object] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            lines = (stable(line) for line in output.text.splitlines() if not line.startswith("warning: "))
            found.append((output.name, [line for line in lines if line]))
        else:
            found.append((output.output_type, sorted(output.get("data", {}))))
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("neurocores        >= 19   4   0.211  estimated", ("neurocores", "estimated")),
        ("lif3  dense   1   1   47   room for 16 neurons", ("lif3", "dense")),
        ("lif1     131,072 values, 26,549 spikes, 0 mismatches", ("lif1", "0")),
        ("69,984 values compared with Lava, mismatches: 3", ("3",)),
        ("\x1b[30;43mA\x1b[0m\x1b[33m▂\x1b[0m . .", ()),
        ("fix: give dt=SECONDS", ("fix", "give", "dt", "SECONDS")),
    ],
)
def test_the_stable_part_of_a_line(line: str, expected: tuple[str, ...]) -> None:
    assert stable(line) == expected


SHORTER = {
    "01_quickstart": {"--epochs 8": "--epochs 2"},
    "02_bring_your_own": {"for _ in range(8):": "for _ in range(3):", "epochs=10": "epochs=2"},
    "03_what_pruning_frees": {"--epochs 6": "--epochs 2", "epochs=4": "epochs=1"},
    "04_float_to_chip": {"--epochs 6": "--epochs 2"},
    "05_events": {"epochs = 8": "epochs = 2", "epochs=6": "epochs=2"},
    "06_from_a_budget_to_an_export": {"--epochs 6": "--epochs 2", "epochs = 3": "epochs = 1", "epochs=3": "epochs=1"},
}
"""How long the trainings are here: figures get worse, but what is compared, their words and mismatches, does not."""


def shorten(notebook: NotebookNode, shorter: dict[str, str]) -> None:
    """Replace the lengths of the trainings; each of them must be in some cell."""
    for long, short in shorter.items():
        cells = [cell for cell in code(notebook) if long in cell.source]
        assert cells, f"no cell says {long}"
        for cell in cells:
            cell.source = cell.source.replace(long, short)


@pytest.mark.parametrize("name", RUNS)
def test_a_fresh_kernel_prints_what_is_kept(name: str, tmp_path: Path) -> None:
    notebook, copy = kept(name), tmp_path / f"{name}.ipynb"
    shorten(notebook, SHORTER[name])
    nbformat.write(notebook, copy)
    command = [sys.executable, FOLDER / "refresh.py", copy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    before, after = code(kept(name)), code(nbformat.read(copy, as_version=4))
    assert {cell.id: outline(cell) for cell in after} == {cell.id: outline(cell) for cell in before}


# What is kept


def test_there_are_six_and_the_readme_lists_them() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert re.findall(r"\((\w+)\.ipynb\)", (FOLDER / "README.md").read_text()) == NAMES


@every_notebook
def test_a_whole_run_from_top_to_bottom_is_kept(name: str) -> None:
    cells = code(kept(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.get("name", output.output_type) for cell in cells for output in cell.outputs}
    assert kinds <= {"stdout", "display_data"}, "neither errors, nor warnings, nor values left over"


@every_notebook
def test_the_file_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < SIZE_LIMIT


@every_notebook
def test_nothing_says_on_which_machine_or_when_it_ran(name: str) -> None:
    notebook = kept(name)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell.metadata for cell in notebook.cells] == [{}] * len(notebook.cells)
    texts = [cell.source for cell in notebook.cells]
    texts += [output.get("text", "") for cell in code(notebook) for output in cell.outputs]
    paths = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|private|var|opt|mnt|work|usr|srv)\b")
    assert [text for text in texts if paths.search(text)] == []


@every_notebook
def test_cells_have_names_that_stay(name: str) -> None:
    names = [cell.id for cell in kept(name).cells]
    assert all(re.fullmatch(r"[a-z][a-z-]*", cell) for cell in names)
    assert len(set(names)) == len(names)


# What a reader finds


@every_notebook
def test_it_opens_with_what_it_teaches_and_how_long_it_takes(name: str) -> None:
    opening = kept(name).cells[0].source
    assert opening.startswith(f"# {name[:2]} ")
    assert "At the end you will know" in opening
    assert re.search(r"^About (\d+ seconds|half a minute) on one core\.", opening, re.MULTILINE)


@every_notebook
def test_it_ends_with_its_limits_and_what_comes_next(name: str) -> None:
    ending = kept(name).cells[-1].source
    assert "What this does not say" in ending
    assert "**Next:**" in ending
    assert all((FOLDER / link).is_file() for link in re.findall(r"\((\w+\.ipynb)\)", ending))


@every_notebook
def test_a_picture_says_where_its_figures_come_from(name: str) -> None:
    pictures = [cell for cell in code(kept(name)) if any("data" in output for output in cell.outputs)]
    assert pictures
    # "labels" are those of the comparison, which says one of the three of each figure.
    assert [cell.id for cell in pictures if not re.search("|".join((*KINDS, "labels")), cell.source)] == []


@every_notebook
def test_only_public_names_are_used(name: str) -> None:
    imported, attributes, ours = set(), set(), set()
    for tree in trees(name):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
                attributes |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                attributes.add(node.attr)
                if isinstance(node.value, ast.Name) and node.value.id == "sd":
                    ours.add(node.attr)
    foreign = {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names | OTHERS}
    assert foreign <= DOCUMENTED
    assert ours <= set(sd.__all__)
    assert {attribute for attribute in attributes if re.match("_(?!_)", attribute)} == set()
