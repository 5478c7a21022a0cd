"""The chip drawn for a terminal: a cell a core, a letter a layer, and beside the letter how full the core is."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.text import Text

from sca_deploy.console import Surface
from sca_deploy.report.tables import table

LETTERS = string.ascii_uppercase + string.ascii_lowercase
OTHER = "#"
"""The letter of every layer beyond those that have one of their own."""
BLOCKS = "▁▂▃▄▅▆▇█"
DIGITS = "0123456789"
TOO_FULL = "!"
FREE = "."
GAP = 2
"""Columns between two chips."""

# Okabe and Ito's colours, which the colour-blind tell apart; black letters can be read on each.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00")


def floor_text(document: dict[str, Any], surface: Surface) -> str:
    """The floor plan for people.

    Args:
        document: of `FloorPlan.as_dict`.
        surface: what it is shown on; where it is too narrow for a chip, the levels go first.
    """
    across = math.isqrt(document["cores_per_tile"] - 1) + 1
    widths = {size: document["columns"] * (size * across + 1) - 1 for size in (2, 1)}
    size = next((size for size, width in widths.items() if width <= surface.width), 0)
    lines = [Text(f"floor plan of {document['chip']} (placement estimated): {_mesh(document)} a chip")]
    if size:
        scale = f"{BLOCKS[0]} to {BLOCKS[-1]}" if surface.blocks else "in tenths"
        level = f", how full it is ({scale})" if size > 1 else ""
        lines.append(Text(f"a cell is a core: its layer's letter{level}; {FREE} is free"))
        drawn = [_chip(document, number, across, size, surface.blocks) for number in range(_listed(document))]
        lines += _beside(drawn, surface.width)
    else:
        lines.append(Text(f"a chip is wider than {surface.width} columns; --json has its cores"))
    if document["chips"] > _listed(document):
        lines.append(Text(f"and {document['chips'] - _listed(document):,} more chips, {document['truncated']:,} cores"))
    return _rendered([*lines, *_legend(document)], surface)


def _rendered(lines: Sequence[Text], surface: Surface) -> str:
    if not surface.colours:
        return "\n".join(line.plain.rstrip() for line in lines)
    buffer = StringIO()
    console = Console(file=buffer, width=1000, force_terminal=True, no_color=False)
    console.print(*lines, sep="\n", soft_wrap=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _mesh(document: dict[str, Any]) -> str:
    return f"{document['columns']} x {document['rows']} tiles of {document['cores_per_tile']} cores"


def _beside(drawn: Sequence[list[Text]], width: int) -> Iterator[Text]:
    """Chips, as many beside one another as `width` holds."""
    size = GAP + max(len(line) for chip in drawn for line in chip)
    beside = max(1, (width + GAP) // size)
    for start in range(0, len(drawn), beside):
        yield Text()
        for parts in zip(*drawn[start : start + beside], strict=True):
            line = Text()
            for part in parts:
                line.append_text(part).append(" " * (size - len(part)))
            yield line


def _listed(document: dict[str, Any]) -> int:
    last: int = max(core["chip"] for core in document["cores"])
    return last + 1


def _chip(document: dict[str, Any], number: int, across: int, size: int, blocks: bool) -> list[Text]:
    """One chip, title first; a tile is `across` cells wide, a cell `size` characters."""
    letters = _letters(document)
    cores = {(core["x"], core["y"], core["slot"]): core for core in document["cores"] if core["chip"] == number}
    lines = [Text(f"chip {number + 1} of {document['chips']:,}: {len(cores)} of {document['cores_per_chip']} cores")]
    per_tile = document["cores_per_tile"]
    for y in range(document["rows"]):
        for first in range(0, per_tile, across):
            line = Text()
            for x in range(document["columns"]):
                line.append(" " if x else "")
                for slot in range(first, first + across):
                    core = cores.get((x, y, slot))
                    if core is not None:
                        letter, colour = letters[core["layer"]]
                        line.append(letter, f"black on {colour}")
                        line.append(_level(core["fill"], blocks)[: size - 1], colour)
                    else:
                        line.append((FREE if slot < per_tile else "").ljust(size), "dim")
            lines.append(line)
    return lines


def _level(fill: float, blocks: bool) -> str:
    levels = BLOCKS if blocks else DIGITS
    return TOO_FULL if fill > 1 else levels[min(len(levels) - 1, int(fill * len(levels)))]


def _letters(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Layer -> (letter, colour)."""
    names = [layer["name"] for layer in document["layers"]]
    return {
        name: (LETTERS[i] if i < len(LETTERS) else OTHER, COLOURS[i % len(COLOURS)]) for i, name in enumerate(names)
    }


def _legend(document: dict[str, Any]) -> Iterator[Text]:
    letters = _letters(document)
    rows = [
        (f"{letters[layer['name']][0]} {layer['name']}", f"{layer['cores']:,}", _range(layer["fill"]), layer["binding"])
        for layer in document["layers"]
    ]
    yield Text()
    head, *lines = table(("layer", "cores", "full", "of"), rows, "").splitlines()
    yield Text(head)
    for line, (_, colour) in zip(lines, letters.values(), strict=True):
        text = Text(line)
        text.stylize(f"black on {colour}", 0, 1)
        yield text


def _range(fill: Sequence[float]) -> str:
    least, most = (f"{100 * value:.0f}" for value in fill)
    return f"{most} %" if least == most else f"{least} to {most} %"
