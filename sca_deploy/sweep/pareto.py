"""The picture of a sweep: accuracy on the chip against what a network costs there, and the front of what is best.

    front(points) -> list[int]                              indices of the points no other beats
    plot_pareto(path, rows, published)                      one PNG, a panel a cost
    Published, packaged(data_set), read_published(...)      of `published`, which needs no matplotlib

A row is what one cell of the sweep came to with one seed. Keys: cell, seed, status ("ok", or why it has no figures,
such as "does not fit"), method ("dense" is the network that is not pruned), keep, steps, and of the figures
accuracy_chip, cores_compiler_like, synops_per_sample, energy_nj_per_sample_typical, _low and _high. Keys with a dot are
other axes of the sweep, those that begin with budget_ its limits.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from sca_deploy.files import atomic_path
from sca_deploy.study.pictures import COLOURS as OKABE_ITO
from sca_deploy.study.pictures import MARKERS
from sca_deploy.sweep.published import Published, packaged, read_published

__all__ = ["Published", "front", "packaged", "plot_pareto", "read_published"]

PANELS = (
    ("cores_compiler_like", "cores", "neurocores, as the compiler\nwould split (estimated)"),
    ("synops_per_sample", "synops", "synaptic operations\na sample (simulated)"),
    ("energy_nj_per_sample_typical", "energy_nj", "dynamic energy a sample, nJ\n(estimated; bars: low to high prices)"),
)
"""Of each panel: the figure of a row, the cost of a published point, the label of the axis."""
NO_POINT = "no published point with this cost was found"
LOG_FROM = 12.0
"""Largest over smallest cost of a panel from which its axis is logarithmic."""
DEPTH = 20.0
"""Percentage points below the best cell that are shown; what lies deeper stands as an arrow on the lower edge."""
CROWD = 40
"""More cells than these hide one another's bars and whiskers, which only the front keeps then."""

COLOURS = (*OKABE_ITO[:-1], "#882255", "#999999")
"""Of methods; black is the dense network's."""
_DENSE = ("*", "D", "p", "h", "8")
_STYLE: dict[Any, Any] = {"font.size": 15, "axes.spines.top": False, "axes.spines.right": False, "legend.fontsize": 14}
_LETTER = 23
"""Pixels that a letter takes, with the room around it."""
_BESIDE = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a letter may stand from its mark, in letters."""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no other beats, by rising cost.

    A point beats another if it costs less and is at least as accurate, or costs the same and is more accurate; equal
    points do not beat one another, so all of them are on the front.
    """
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not found or points[i][1] > points[found[-1]][1] or points[i] == points[found[-1]]:
            found.append(i)
    return found


@dataclass(frozen=True)
class _Cell:
    """The seeds of one cell: (mean, lowest, highest) of the accuracy in % and of each cost."""

    method: str
    shape: str
    accuracy: tuple[float, float, float]
    cost: Mapping[str, tuple[float, float, float]]
    band: tuple[float, float]
    """Energy at low and at high prices, mean over the seeds."""


def plot_pareto(path: Path, rows: Sequence[Mapping[str, Any]], published: Sequence[Published] = ()) -> None:
    """Accuracy on the chip against neurocores, synaptic operations and dynamic energy; written to `path` as a PNG.

    A mark is the mean of a cell's seeds, its whiskers reach from the lowest to the highest. Colours are methods, shapes
    are time steps or, where these do not vary, another axis. The staircase joins the cells that no other beats on
    average. Published points are hollow and lettered, in the panels whose cost they have.

    Args:
        path: the PNG to write.
        rows: one a cell and seed, see the top of this module.
        published: points to stand beside.

    Raises:
        ScaDeployError: if the file cannot be written.
    """
    axis = _shape_axis(rows)
    cells = _cells(rows, axis)
    with _figure(path, published) as (figure, panels):
        _limit_accuracy(panels[0], cells, published)
        for panel, (key, name, label) in zip(panels, PANELS, strict=True):
            theirs = [float(cost) for cost in (getattr(point, name) for point in published) if cost is not None]
            _scale(panel, [*(value for cell in cells for value in _reach(cell, key)), *theirs])
            panel.set_xlabel(label if theirs or not published else f"{label}\n{NO_POINT}")
            _plot_cells(panel, cells, key)
        figure.suptitle(_title(rows), fontsize=16)
        _legends(figure, cells, axis, published)
        figure.draw_without_rendering()  # letters keep clear of one another on the final scale
        for panel, (_, name, _) in zip(panels, PANELS, strict=True):
            _plot_published(panel, name, published)


def _shape_axis(rows: Sequence[Mapping[str, Any]]) -> str:
    """The key that shapes tell apart: the time steps if they vary, else the next axis that takes few values."""
    keys = list(rows[0]) if rows else []
    budgets, axes = ([key for key in keys if mark in key] for mark in ("budget_", "."))
    pruned = [row for row in rows if row["method"] != "dense"]
    for key in ("steps", *budgets, *axes, "keep"):
        values = {str(row.get(key)) for row in pruned}
        if 1 < len(values) <= len(MARKERS) and key != "prune.method":
            return key
    return "steps"


def _cells(rows: Sequence[Mapping[str, Any]], axis: str) -> list[_Cell]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok":
            groups.setdefault(row["cell"], []).append(row)
    return [_cell(seeds, axis) for seeds in groups.values()]


def _cell(seeds: Sequence[Mapping[str, Any]], axis: str) -> _Cell:
    def spread(key: str, scale: float = 1.0) -> tuple[float, float, float]:
        values = [scale * float(row[key]) for row in seeds]
        return sum(values) / len(values), min(values), max(values)

    return _Cell(
        str(seeds[0]["method"]),
        "none" if seeds[0].get(axis) is None else str(seeds[0][axis]),
        spread("accuracy_chip", 100.0),
        {key: spread(key) for key, _, _ in PANELS},
        (spread("energy_nj_per_sample_low")[0], spread("energy_nj_per_sample_high")[0]),
    )


def _reach(cell: _Cell, key: str) -> tuple[float, ...]:
    """All that a mark of a cell covers of an axis of costs."""
    return (*cell.cost[key], *cell.band) if key == PANELS[2][0] else cell.cost[key]


def _limit_accuracy(axes: Axes, cells: Sequence[_Cell], published: Sequence[Published]) -> None:
    """The same range for all panels: everything, but nothing deeper than DEPTH below the best cell."""
    best = max((cell.accuracy[0] for cell in cells), default=100.0)
    ours = [value for cell in cells for value in cell.accuracy if value >= best - DEPTH]
    if 2 * len(ours) < sum(len(cell.accuracy) for cell in cells):  # what is left out must not be the rule
        ours = [value for cell in cells for value in cell.accuracy]
    shown = [*ours, *(100 * point.accuracy for point in published)] or [best]
    margin = max(0.06 * (max(shown) - min(shown)), 0.3)
    axes.set_ylim(min(shown) - margin, min(max(shown), 100.0) + margin)
    axes.set_ylabel("accuracy on the chip, %\n(simulated)")


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Limits around all values, and a logarithmic axis where those above 0 span more than LOG_FROM."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    least = min((value for value in values if value > 0), default=high)
    if high > LOG_FROM * least:
        margin = (high / least) ** 0.06
        axes.set_xscale("log")
        axes.set_xlim(least / margin, high * margin)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * least else (1.0,), numticks=6))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    else:
        margin = 0.06 * (high - low) or 0.5 * high or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=high > 2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """A number for an axis: 800, 12k, 3.5M, 2G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _plot_cells(axes: Axes, cells: Sequence[_Cell], key: str) -> None:
    """Every cell, and the staircase of the front; a cost of 0 stands on the left edge of a logarithmic axis."""
    looks, crowd, (left, right) = _looks(cells), len(cells) > CROWD, axes.get_xlim()
    places = [(max(cell.cost[key][0], left), cell.accuracy[0]) for cell in cells]
    best = front([(cell.cost[key][0], cell.accuracy[0]) for cell in cells])
    if best:
        stairs = [*(places[i] for i in best), (right, places[best[-1]][1])]
        axes.step(*zip(*stairs, strict=True), where="post", color="0.35", linewidth=1.8, zorder=1)
    floor, size = axes.get_ylim()[0], 12 if not crowd else 9 if len(cells) <= 3 * CROWD else 7
    for i, (cell, look) in enumerate(zip(cells, looks, strict=True)):
        (x, y), colour, ahead = places[i], look["color"], i in best
        if ahead or not crowd:
            _plot_spread(axes, cell, key, colour)
        if y < floor:
            axes.plot([x], [floor], "v", color=colour, markersize=size, clip_on=False, zorder=4)
            continue
        big = 17 if look["marker"] == "*" else max(size, 12) if cell.method == "dense" else size
        edge: dict[str, Any] = {
            "markeredgecolor": "black" if ahead else "white",
            "markeredgewidth": 1.2 if ahead else 0.4,
        }
        alpha = 0.6 if crowd and not ahead and cell.method != "dense" else 1.0
        above = 3 + ahead + 2 * (cell.method == "dense")
        axes.plot([x], [y], **look, **edge, markersize=big, alpha=alpha, linestyle="none", zorder=above)


def _plot_spread(axes: Axes, cell: _Cell, key: str, colour: str) -> None:
    """Whiskers over the seeds, and the band of the energy."""
    (x, left, right), (y, low, high) = cell.cost[key], cell.accuracy
    if key == PANELS[2][0]:
        axes.hlines(y, *cell.band, color=colour, linewidth=1.2, alpha=0.45, zorder=2)
    axes.hlines(y, left, right, color=colour, linewidth=2.6, zorder=2)
    axes.vlines(x, low, high, color=colour, linewidth=2.6, zorder=2)


def _looks(cells: Sequence[_Cell]) -> list[dict[str, Any]]:
    """Of each cell: colour, marker and fill."""
    methods, dense, shapes = _methods(cells), _shapes(cells, dense=True), _shapes(cells, dense=False)
    return [
        _dense_look(dense.index(cell.shape))
        if cell.method == "dense"
        else {**_method_look(methods.index(cell.method)), "marker": MARKERS[shapes.index(cell.shape) % len(MARKERS)]}
        for cell in cells
    ]


def _dense_look(shape: int) -> dict[str, Any]:
    return {"color": "black", "marker": _DENSE[shape % len(_DENSE)], "fillstyle": "full"}


def _method_look(method: int) -> dict[str, Any]:
    """The colour of a method; half filled where the colours start again."""
    fill = "full" if method < len(COLOURS) else "bottom"
    return {"color": COLOURS[method % len(COLOURS)], "markerfacecoloralt": "white", "fillstyle": fill}


def _methods(cells: Sequence[_Cell]) -> list[str]:
    return [method for method in dict.fromkeys(cell.method for cell in cells) if method != "dense"]


def _shapes(cells: Sequence[_Cell], dense: bool) -> list[str]:
    """The values of the axis that shapes tell apart, numbers in their order."""
    found = {cell.shape for cell in cells if (cell.method == "dense") == dense}
    return sorted(found, key=_order)


def _order(value: str) -> tuple[float, str]:
    """Numbers by their size, words after them."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many cells and seeds, and how many cells have no figures and why."""
    ended: dict[Any, set[str]] = {}
    for row in rows:
        ended.setdefault(row["cell"], set()).add(str(row["status"]))
    seeds = len({row["seed"] for row in rows})
    several = f"{seeds} seeds: means, whiskers from the lowest to the highest" if seeds > 1 else "one seed"
    lost = Counter(status for found in ended.values() for status in found if "ok" not in found)
    partly = sum("ok" in found and len(found) > 1 for found in ended.values())
    cells = f"{len(ended)} cell{'s' if len(ended) != 1 else ''}"
    parts = [f"{cells}, {several}", *(f"{status}: {count}" for status, count in sorted(lost.items()))]
    return "; ".join([*parts, *([f"with some seeds only: {partly}"] if partly else [])])


def _legends(figure: Figure, cells: Sequence[_Cell], axis: str, published: Sequence[Published]) -> None:
    """Methods, shapes and the front on the right; published points with their sources below."""
    word = "T" if axis == "steps" else axis.rpartition(".")[2].replace("_", " ")
    dense, shapes = _shapes(cells, dense=True), _shapes(cells, dense=False)
    handles = [_mark(method, **_method_look(i), marker="o") for i, method in enumerate(_methods(cells))]
    if len(shapes) > 1:
        handles += [
            _mark(f"{word} = {value}", color="0.45", marker=MARKERS[i % len(MARKERS)]) for i, value in enumerate(shapes)
        ]
    for i, value in enumerate(dense):
        label = f"dense, {word} = {value}" if len(dense) > 1 else "dense"
        handles.append(_mark(label, size=16 if i == 0 else 12, **_dense_look(i)))
    if cells:
        handles.append(Line2D([], [], color="0.35", linewidth=1.8, label="front of the means"))
    if any(cell.accuracy[0] < figure.axes[0].get_ylim()[0] for cell in cells):
        handles.append(_mark("lower than shown", color="0.45", marker="v"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, handletextpad=0.4)
    notes = [
        _mark(f"published {letter}: {_said(point)}", color="none", marker="o", markeredgecolor="black")
        for letter, point in zip(_letters(published), published, strict=True)
    ] or [_mark(NO_POINT.replace("this", "a"))]
    figure.legend(handles=notes, loc="outside lower left", frameon=False, ncols=2 if len(notes) > 3 else 1)


def _mark(label: str, size: float = 11, **look: Any) -> Line2D:
    return Line2D([], [], linestyle="none", markersize=size, label=label, **look)


def _said(point: Published) -> str:
    said = [point.evidence] if point.evidence != "not said" else []
    said += [f"{point.energy} energy"] if point.energy != "not said" else []
    return f"{point.name} ({', '.join([point.source, *said])})"


def _letters(published: Sequence[Published]) -> list[str]:
    """A, B, ... and after Z numbers."""
    letters = string.ascii_uppercase
    return [letters[i] if i < len(letters) else str(i + 1) for i in range(len(published))]


def _plot_published(axes: Axes, name: str, published: Sequence[Published]) -> None:
    """Hollow marks, each with its letter in it, or beside it where another one's letter is."""
    taken: list[np.ndarray[Any, Any]] = []
    inside = axes.bbox.padded(-_LETTER / 2)
    for letter, point in zip(_letters(published), published, strict=True):
        cost = getattr(point, name)
        if cost is None:
            continue
        place = (float(cost), 100 * point.accuracy)
        axes.plot(*place, "o", color="white", alpha=0.8, markersize=17, markeredgecolor="none", zorder=5)
        axes.plot(*place, "o", color="none", markersize=17, markeredgecolor="black", zorder=6, clip_on=False)
        at = np.asarray(axes.transData.transform(place))
        shifts = _LETTER * np.array(_BESIDE, dtype=float)
        clear = (shift for shift in shifts if all(np.abs(at + shift - t).max() > 0.85 * _LETTER for t in taken))
        shift = next((shift for shift in clear if inside.contains(*(at + shift))), np.zeros(2))
        taken.append(at + shift)
        beside = (float(shift[0]), float(shift[1]))
        middle: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
        axes.annotate(letter, place, xytext=beside, textcoords="offset pixels", zorder=7, **middle)


@contextmanager
def _figure(path: Path, published: Sequence[Published]) -> Iterator[tuple[Figure, list[Axes]]]:
    """Three panels with one scale of accuracy, saved to `path` when the block succeeds."""
    lines = len(published) if len(published) <= 3 else -(-len(published) // 2)
    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(18, 6.0 + 0.3 * lines), sharey=True, layout="constrained")
        try:
            yield figure, list(panels)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=100, format="png")
        finally:
            plt.close(figure)
