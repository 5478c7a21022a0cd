"""What a chart on the page is: a plotly figure, the sentence that stands for it, and the table of its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

ARMS = ("dense", "pruned")
ARM_COLOURS = {"dense": "var(--dense)", "pruned": "var(--pruned)"}
"""Names of colours in style.css; the script puts in what they are in light and in dark."""
ARM_DASHES = {"dense": "solid", "pruned": "dash"}
ARM_SYMBOLS = {"dense": "circle", "pruned": "diamond"}
ARM_PATTERNS = {"dense": "", "pruned": "/"}

NAME_SHOWN = 22
"""Letters of a layer's name that fit beside a chart."""
SHORTEST, TALLEST = 340, 940
"""Pixels of a chart; a printed page of A4 holds the tallest."""

AXIS = dict(
    gridcolor="var(--line)",
    linecolor="var(--ink-soft)",
    zeroline=False,
    automargin=True,
    title=dict(font=dict(size=16), standoff=8),
)
ROWS_NAMED = 42
"""Rows beside a chart, at most, that have room for their names."""
POINTS = 40
"""Marks along a line, at most; more would hide it."""
TEMPLATE = go.layout.Template(
    layout=dict(
        font=dict(family="system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size=16, color="var(--ink)"),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin=dict(l=8, r=16, t=8, b=16),
        hoverlabel=dict(
            bgcolor="var(--surface)",
            bordercolor="var(--ink-soft)",
            font=dict(size=16, color="var(--ink)"),
            align="left",
        ),
        legend=dict(orientation="h", x=0, y=1.02, xanchor="left", yanchor="bottom", font=dict(size=16)),
        xaxis=AXIS,
        yaxis=AXIS,
        bargap=0.25,
        bargroupgap=0.08,
        hovermode="closest",
    )
)
"""The look of every chart."""


@dataclass(frozen=True)
class Numbers:
    """A table: what a chart shows, in numbers.

    Args:
        head: of the columns; the first names the rows.
        rows: as many texts each.
        texts: how many columns from the left are words, not numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        key: unique on the page.
        title: its heading.
        labels: of "measured", "simulated", "estimated" those that hold for what it shows.
        note: what is seen and where it comes from, one or two sentences.
        says: the chart in words with its main numbers, for people who do not see it.
        figure: plotly's; colours are names of colours in style.css.
        numbers: the same as a table.
        remarks: what is not in it, a line each.
    """

    key: str
    title: str
    labels: Sequence[str]
    note: str
    says: str
    figure: dict[str, Any]
    numbers: Numbers
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table that stands in the page for itself."""

    title: str
    labels: tuple[str, ...]
    note: str
    numbers: Numbers
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Missing:
    """Words in the place of a chart: its title, and why there is nothing to draw, a line each."""

    title: str
    remarks: Sequence[str] = field(default_factory=tuple)


def plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as JSON-able data, without a template: the page holds that once."""
    document: dict[str, Any] = json.loads(figure.to_json())
    document["layout"].pop("template", None)
    return document


def shared_template() -> dict[str, Any]:
    """`TEMPLATE` as JSON-able data."""
    template: dict[str, Any] = json.loads(go.Figure(layout=dict(template=TEMPLATE)).to_json())["layout"]["template"]
    return template


def present(document: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A part of the arms that have it, by their names."""
    return {arm: found for arm in ARMS if (found := document["arms"][arm][part])}


def evaluated(document: Mapping[str, Any], part: str) -> tuple[dict[str, Any], list[str]]:
    """A part of the evaluations of the arms that have one, and why others do not."""
    found = {arm: evaluation[part] for arm, evaluation in present(document, "evaluation").items()}
    return found, why_missing(document, "evaluation")


def why_missing(document: Mapping[str, Any], part: str, arms: Iterable[str] = ARMS) -> list[str]:
    """Why a part of an arm is not there, a line each; one line where it is the same for all."""
    reasons = {arm: document["arms"][arm]["missing"].get(part) for arm in arms}
    given = {arm: reason for arm, reason in reasons.items() if reason}
    if len(given) > 1 and len(given) == len(reasons) and len(set(given.values())) == 1:
        return [next(iter(given.values()))]
    return [f"{arm}: {reason}" for arm, reason in given.items()]


def escaped(text: str) -> str:
    """A stranger's text for plotly, which reads some HTML in the texts of charts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(name: str, limit: int = NAME_SHOWN, tail: int = NAME_SHOWN // 2) -> str:
    """A name that fits, a part before its last letters left out if need be."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 1 - tail]}…{name[len(name) - tail :]}"


def told_apart(names: Sequence[str]) -> list[str]:
    """Names that fit and still differ: what they differ in may be at either end."""
    for tail in (NAME_SHOWN // 2, NAME_SHOWN // 4, 0, 3 * NAME_SHOWN // 4):
        short = [shortened(name, tail=tail) for name in names]
        if len(set(short)) == len(names):
            return short
    return [f"{place + 1}: {shortened(name, NAME_SHOWN - 5)}" for place, name in enumerate(names)]


def tick(name: str, short: str) -> str:
    """A name beside an axis: in two lines where it is long and words can be parted, else as short as it fits."""
    spaces = [place for place, letter in enumerate(name) if letter == " "]
    if len(name) > NAME_SHOWN * 2 // 3 and spaces:
        at = min(spaces, key=lambda place: abs(place - len(name) / 2))
        parts = name[:at], name[at + 1 :]
        if max(map(len, parts)) <= NAME_SHOWN:
            return "<br>".join(map(escaped, parts))
    return escaped(short)


def counted_axis(title: str, first: int, last: int) -> dict[str, Any]:
    """An axis of epochs or steps: whole numbers, all of them named where they are few."""
    every = dict(tick0=first, dtick=1) if last - first <= 12 else {}
    return dict(title=title, range=[first - 0.5, last + 0.5], **every)


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def ordered(*names: Iterable[str]) -> list[str]:
    """Every name once, in the order of the first list that has it."""
    return list(dict.fromkeys(name for some in names for name in some))


def bars_by_layer(
    values: Mapping[str, Mapping[str, float]],
    shown: Mapping[str, Mapping[str, str]],
    axis: str,
    errors: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> dict[str, Any]:
    """Lying bars, a group a row, one bar an arm.

    Args:
        values: of every arm, by the name of the row.
        shown: what hovering says, alike.
        axis: title of the values' axis.
        errors: of every arm, how far a row's band reaches below and above its value.
    """
    rows = ordered(*values.values())
    figure = go.Figure()
    for arm, of_arm in values.items():
        here = [row for row in rows if row in of_arm]
        figure.add_bar(
            orientation="h",
            name=arm,
            y=[rows.index(row) for row in here],
            x=[of_arm[row] for row in here],
            customdata=[[escaped(row), escaped(shown[arm][row])] for row in here],
            hovertemplate=f"%{{customdata[0]}}<br>{arm}: %{{customdata[1]}}<extra></extra>",
            marker=dict(
                color=ARM_COLOURS[arm],
                pattern=dict(shape=ARM_PATTERNS[arm], fgcolor="var(--surface)", solidity=0.2, fillmode="overlay"),
            ),
            **({"error_x": _whiskers([errors[arm][row] for row in here])} if errors else {}),
        )
    figure.update_layout(barmode="group", height=height_of(len(rows)))
    figure.update_xaxes(title=axis, rangemode="tozero")
    figure.update_yaxes(**row_ticks(rows), showgrid=False)
    return plain(figure)


def _whiskers(reach: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return dict(
        type="data",
        symmetric=False,
        arrayminus=[below for below, _ in reach],
        array=[above for _, above in reach],
        color="var(--ink)",
        thickness=2,
        width=5,
    )


def height_of(rows: int) -> int:
    """Pixels of a chart of so many rows."""
    return min(TALLEST, max(SHORTEST, 130 + 52 * rows))


def row_ticks(names: Sequence[str]) -> dict[str, Any]:
    """An axis of rows from the top down, named as far as names have room."""
    every = -(-len(names) // ROWS_NAMED)
    places = range(0, len(names), every)
    short = told_apart(names)
    return dict(
        tickmode="array",
        tickvals=list(places),
        ticktext=[tick(names[place], short[place]) for place in places],
        range=[len(names) - 0.5, -0.5],
    )
