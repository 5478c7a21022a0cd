"""The floor of the chip: the cores of its mesh, whose neurons each holds, and how full that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from string import ascii_uppercase
from typing import Any

import plotly.graph_objects as go

from sca_deploy.report.figures import counted, percent
from sca_deploy.report.page.chart import ARMS, Chart, Missing, Numbers, escaped, ordered, plain, present, why_missing

FILLS = 8
"""Colours of layers in style.css, used again from the first; the letters tell layers apart."""
GAP = 0.3
"""Between tiles, in cores."""
INSET = 0.06
"""Between cores of a tile, in cores."""


class Letters:
    """The letter and the colour of every layer, the same in all charts of a page."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._places = {layer: place for place, layer in enumerate(layers)}

    def letter(self, layer: str) -> str:
        """A to Z, then AA, AB and on."""
        place, text = self._places[layer] + 1, ""
        while place:
            place, rest = divmod(place - 1, len(ascii_uppercase))
            text = ascii_uppercase[rest] + text
        return text

    def fill(self, layer: str) -> str:
        """The name of its colour."""
        return f"--f{self._places[layer] % FILLS + 1}"


def letters_of(document: Mapping[str, Any]) -> Letters:
    """Letters for the layers of both arms."""
    return Letters(
        ordered(*([layer["name"] for layer in floor["layers"]] for floor in present(document, "floor").values()))
    )


def floors(document: Mapping[str, Any]) -> dict[str, list[Chart] | Missing]:
    """For every arm a chart of each of its chips that is listed core by core."""
    found = present(document, "floor")
    letters = letters_of(document)
    return {
        arm: _chips(arm, found[arm], letters) if arm in found else Missing(arm, why_missing(document, "floor", [arm]))
        for arm in ARMS
    }


def chip_shown(document: Mapping[str, Any]) -> str:
    """What the networks run on. The chip file's title speaks of one chip, and is not for several."""
    chip: Mapping[str, str] = document["chip"]
    several = any(floor["chips"] > 1 for floor in present(document, "floor").values())
    return f"chips of type {chip['name']}" if several else chip["title"]


def legend(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the letters mean: for every layer its letter, colour and what it takes in each arm, in words."""
    found, letters = present(document, "floor"), letters_of(document)
    layers = ordered(*([layer["name"] for layer in floor["layers"]] for floor in found.values()))
    rows = []
    for layer in layers:
        takes = []
        for arm, floor in found.items():
            takes += [
                f"{arm}: {counted(part['cores'], 'core')}, {_words(part['binding'])} {_range(part['fill'])}"
                for part in floor["layers"]
                if part["name"] == layer
            ]
        rows.append({"layer": layer, "letter": letters.letter(layer), "fill": letters.fill(layer), "takes": takes})
    return rows


def _range(fill: Sequence[float]) -> str:
    low, high = map(percent, fill)
    return high if low == high else f"{low} to {high}"


def _chips(arm: str, floor: Mapping[str, Any], letters: Letters) -> list[Chart]:
    drawn = sorted({core["chip"] for core in floor["cores"]})
    charts = []
    for chip in drawn:
        cores = [core for core in floor["cores"] if core["chip"] == chip]
        least = "at least " if floor["lower_bound"] else ""
        of_chips = f", chip {chip + 1} of {floor['chips']:,}" if floor["chips"] > 1 else ""
        fullest = max(cores, key=lambda core: core["fill"])
        charts.append(
            Chart(
                key=f"floor-{arm}-{chip}",
                title=f"{arm}: {least}{counted(floor['used'], 'core')}{of_chips}",
                labels=("estimated",),
                note="",
                says=f"{_holds(arm, floor, chip, len(cores))}. The fullest is core {fullest['index']} of "
                f"{fullest['layer']}, with {percent(fullest['fill'])} of its {_words(fullest['binding'])}.",
                figure=_drawn(floor, cores, letters),
                numbers=_numbers(cores, letters),
                remarks=_left_out(floor["truncated"]) if chip == drawn[-1] else [],
            )
        )
    return charts


def _left_out(cores: int) -> list[str]:
    are = "is" if cores == 1 else "are"
    return [f"{counted(cores, 'core')} on further chips {are} not drawn."] if cores else []


def _holds(arm: str, floor: Mapping[str, Any], chip: int, used: int) -> str:
    """Cores of a chip that a network takes, and those it leaves."""
    free = floor["cores_per_chip"] - used
    are_free = f"{free:,} {'is' if free == 1 else 'are'} free"
    if floor["chips"] > 1:
        are_here = f"{used:,} of the {arm} network's cores {'is' if used == 1 else 'are'} on this chip"
        return f"Chip {chip + 1} of {floor['chips']:,}: {are_here}, {are_free}"
    hold = "holds" if used == 1 else "hold"
    return f"{floor['title']}: {counted(used, 'core')} {hold} the {arm} network, {are_free}"


def _free(floor: Mapping[str, Any], cores: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """(x, y, slot) of as many free cores as the chip has to use, in the order in which cores are placed."""
    taken = {(core["x"], core["y"], core["slot"]) for core in cores}
    columns = range(floor["columns"])
    free = [
        (x, y, slot)
        for y in range(floor["rows"])
        for x in (reversed(columns) if y % 2 else columns)
        for slot in range(floor["cores_per_tile"])
        if (x, y, slot) not in taken
    ]
    return free[: max(0, floor["cores_per_chip"] - len(cores))]


def _drawn(floor: Mapping[str, Any], cores: Sequence[Mapping[str, Any]], letters: Letters) -> dict[str, Any]:
    """Cells of the mesh: an outline each, filled from below as far as its fullest budget is used."""
    wide = ceil(sqrt(floor["cores_per_tile"]))
    high = ceil(floor["cores_per_tile"] / wide)
    free = _free(floor, cores)

    def place(x: int, y: int, slot: int) -> tuple[float, float]:
        return x * (wide + GAP) + slot % wide, y * (high + GAP) + slot // wide

    spots = [place(core["x"], core["y"], core["slot"]) for core in cores]
    colours = [f"var({letters.fill(core['layer'])})" for core in cores]
    figure = go.Figure()
    empty = [place(*where) for where in free]
    figure.add_bar(
        **_cells(empty, [1.0] * len(empty)),
        marker=dict(color="rgba(0,0,0,0)", line=dict(color="var(--line)", width=1)),
        customdata=[[x, y] for x, y, _ in free],
        hovertemplate="free core<br>tile %{customdata[0]}, %{customdata[1]}<extra></extra>",
    )
    figure.add_bar(
        **_cells(spots, [min(1.0, core["fill"]) for core in cores]), marker=dict(color=colours), hoverinfo="skip"
    )
    figure.add_bar(
        **_cells(spots, [1.0] * len(spots)),
        marker=dict(color="rgba(0,0,0,0)", line=dict(color="var(--ink-soft)", width=1.5)),
        customdata=[[_hover(core)] for core in cores],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    figure.add_scatter(
        x=[x + 0.5 for x, _ in spots],
        y=[y + 0.5 for _, y in spots],
        text=[letters.letter(core["layer"]) for core in cores],
        mode="text",
        textfont=dict(color="var(--ink)"),
        hoverinfo="skip",
    )
    width, height = (n * (per + GAP) - GAP for n, per in ((floor["columns"], wide), (floor["rows"], high)))
    figure.update_layout(
        barmode="overlay",
        bargap=0,
        showlegend=False,
        margin=dict(l=2, r=2, t=2, b=2),
        meta=dict(width=width, height=height),
    )
    figure.update_xaxes(visible=False, range=[-0.1, width + 0.1], fixedrange=True)
    figure.update_yaxes(visible=False, range=[height + 0.1, -0.1], fixedrange=True)
    return plain(figure)


def _cells(spots: Sequence[tuple[float, float]], fills: Sequence[float]) -> dict[str, Any]:
    """Bars that stand on the lower edges of cells and reach as high as the fills."""
    side = 1 - 2 * INSET
    return dict(
        x=[x + 0.5 for x, _ in spots],
        base=[y + 1 - INSET for _, y in spots],
        y=[-side * fill for fill in fills],
        width=side,
    )


def _hover(core: Mapping[str, Any]) -> str:
    lines = [f"<b>{escaped(core['layer'])}, core {core['index']}</b>", counted(core["neurons"], "neuron")]
    for budget, (used, limit) in core["use"].items():
        line = f"{_words(budget)} {used:,} of {limit:,}"
        lines.append(f"<b>{line}, binding: {percent(core['fill'])}</b>" if budget == core["binding"] else line)
    return "<br>".join(lines)


def _words(budget: str) -> str:
    return budget.replace("_", " ")


def _numbers(cores: Sequence[Mapping[str, Any]], letters: Letters) -> Numbers:
    return Numbers(
        ("layer", "letter", "core", "tile", "neurons", "binding", "used", "of", "fill"),
        [
            (
                core["layer"],
                letters.letter(core["layer"]),
                str(core["index"]),
                f"{core['x']}, {core['y']}",
                f"{core['neurons']:,}",
                _words(core["binding"]),
                *(f"{amount:,}" for amount in core["use"][core["binding"]]),
                percent(core["fill"]),
            )
            for core in cores
        ],
    )
