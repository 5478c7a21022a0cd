"""Results as tables for a terminal; every figure says whether it is measured, simulated or estimated."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from sca_deploy.budget import amount
from sca_deploy.evaluate import LABELS
from sca_deploy.report.figures import ROWS, cell, counted, label, ratio

STEPS_SHOWN = 30
"""Steps of a narrower network that are listed for people."""
GAP = 2
"""Columns between two cells of a table."""
INDENT = 4
"""Columns that the rest of a row is indented by."""


def comparison_table(
    document: dict[str, Any], width: int | None = None, compared: Mapping[str, Path] | None = None
) -> str:
    """Dense against pruned, from the document of `compare`, and below it what to know before believing it.

    Args:
        document: the comparison.
        width: of the terminal, as `table`; on a narrow one the ends of a band are a line of their own.
        compared: the arms that stand for "dense" and "pruned", where these words do not say it.
    """
    rows = _figures(document)
    samples = counted(document["dense"]["test_samples"], "test sample")
    names = ", ".join(f"{arm} is {place}" for arm, place in (compared or {}).items())
    head, title = ("", "dense", "pruned", "pruned / dense", ""), f"{samples}: {names}" if names else samples
    shown = table(head, rows, title)
    if not _fits(shown, width):
        shown = table(head, [line for row in rows for line in _band_apart(row)], title, width)
    lines = [f"warning: {arm}: {line}" for arm, found in document["warnings"].items() for line in found]
    budget = ("", budget_table(document["budget"], width)) if "budget" in document else ()
    return "\n".join((shown, *budget, *(_folded(line, width) for line in lines)))


def budget_table(budget: list[dict[str, Any]], width: int | None = None) -> str:
    """The pruned network against its budget, on test samples, from `budget.kept`; `width` as `table`."""
    rows = [
        (
            f"at most {amount(found['name'], found['limit'])}",
            f"{found['value']:,.6g}",
            f"{100 * found['value'] / found['limit']:.1f} %",
            "kept" if found["kept"] else "exceeded",
            found["label"],
        )
        for found in budget
    ]
    return table(("limit", "pruned", "of the limit", "", ""), rows, "", width)


def _figures(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """Title, dense, pruned, what is left, and where it comes from."""
    rows = []
    for key, title in ROWS.items():
        if key not in document["ratio"]:
            continue
        dense, pruned, left = (document[side][key] for side in ("dense", "pruned", "ratio"))
        cells = [cell(key, dense), cell(key, pruned)]
        if key == "cores":
            bounds = (document["lower_bound"][arm] for arm in ("dense", "pruned"))
            cells = [f">= {shown}" if bound else shown for shown, bound in zip(cells, bounds, strict=True)]
        shown = ratio(left["typical"] if isinstance(left, dict) else left)
        if key == "cores":
            shown = f"{_bound(**document['lower_bound'])}{shown}"
        rows.append((title, *cells, shown, label(key, document["evidence"])))
    return rows


def _bound(dense: bool, pruned: bool) -> str:
    """What is known of pruned / dense where one of them, or both, is a lower bound."""
    if dense and pruned:
        return "of the bounds: "
    return "<= " if dense else ">= " if pruned else ""


def _band_apart(row: Sequence[str]) -> list[tuple[str, ...]]:
    """A row of figures, and below it a row with the ends of its bands, if it has some."""
    title, dense, pruned, *rest = row
    (dense, _, dense_ends), (pruned, _, pruned_ends) = (cell.partition(" (") for cell in (dense, pruned))
    ends = (f"({found}" if found else "" for found in (dense_ends, pruned_ends))
    below = [(f"{' ' * INDENT}low to high", *ends, "", "")] if dense_ends or pruned_ends else []
    return [(title, dense, pruned, *rest), *below]


def mapping_table(document: dict[str, Any], width: int | None = None) -> str:
    """Cores a layer, from `Mapping.as_dict`; neurons, words and axons are of the fullest core. `width` as `table`."""
    rows = [
        (
            layer["name"],
            layer["kind"],
            f">= {layer['cores']}" if layer["lower_bound"] else str(layer["cores"]),
            str(layer["compiler_like"]),
            f"{layer['neurons_per_core']:,}",
            f"{layer['synapse_words']:,}",
            f"{layer['axon_in']:,}",
            _room(layer["headroom"]),
            _saving(layer["headroom"]),
            f"{layer['binding']} {100 * layer['binding_fraction']:.0f} %",
        )
        for layer in document["layers"]
    ]
    head = ("layer", "kind", "cores", "compiler-like", "neurons a core", "synapse words a core", "axons in")
    least = "at least " if document["lower_bound"] else ""
    title = (
        f"{document['title']}: {least}{counted(document['cores'], 'core')} of {document['chip']} (estimated), "
        f"{document['compiler_like']:,} as the compiler would split (inferred); {_systems(document)}"
    )
    return table((*head, "room for", "a core less at", "binding"), rows, title, width)


def what_if_table(document: dict[str, Any], width: int | None = None) -> str:
    """Cores against the fraction of channels kept, from `WhatIf.as_dict`; of many steps those that change most.

    `width` as `table`.
    """
    steps, asked = document["steps"], document["asked"]
    changes = [abs(step["cores"] - before["cores"]) for before, step in pairwise(steps)]
    most = sorted(range(len(changes)), key=lambda i: -changes[i])[:STEPS_SHOWN]
    shown = [steps[0], *(steps[i + 1] for i in most)]
    known = {kept["keep"]: (kept, "a step") for kept in shown} | {kept["keep"]: (kept, "asked") for kept in asked}
    rows = [
        (
            f"{keep:.4f}".rstrip("0").rstrip("."),
            f"{kept['cores']:,}",
            f"{kept['compiler_like']:,}",
            f"{kept['channels']:,}",
            kept["system"] or "no system",
            why,
        )
        for keep, (kept, why) in sorted(known.items(), reverse=True)
    ]
    title = f"what a fraction of the hidden channels takes on {document['chip']} (estimated)"
    if len(shown) < len(steps):
        title = f"{title}; {len(shown)} of {len(steps):,} steps, --json has all"
    counts = table(("up to", "cores", "compiler-like", "channels", "smallest system", "why"), rows, title, width)
    return f"{counts}\n{_folded('a step is where the count of cores changes', width)}"


def _systems(document: dict[str, Any]) -> str:
    chips = counted(document["chips"], "chip")
    held, larger = (document[key] or "no system" for key in ("system", "compiler_like_system"))
    return f"{chips}, {held} holds it" + (f" ({larger} as the compiler would split)" if larger != held else "")


def _room(headroom: dict[str, Any]) -> str:
    return f"{headroom['more']:,} {headroom['unit']}" if headroom["more"] else "-"


def _saving(headroom: dict[str, Any]) -> str:
    """How many columns or neurons, or how many channels, would have to go to save a core."""
    fewer = [(headroom["fewer"], headroom["unit"]), (headroom["channels_fewer"], "channels")]
    return " or ".join(f"-{count:,} {unit}" for count, unit in fewer if count) or "-"


def verification_table(document: dict[str, Any], width: int | None = None) -> str:
    """Values compared and mismatches a layer, from `Verification.as_dict`. `width` as `table`."""
    rows = [
        (layer["name"], f"{layer['values']:,}", f"{layer['spikes']:,}", str(layer["mismatches"]))
        for layer in document["layers"]
    ]
    samples, steps = counted(document["samples"], "sample"), counted(document["steps"], "step")
    title = f"{samples}, {steps}, simulator against Lava"
    return table(("layer", "values compared", "spikes", "mismatches"), rows, title, width)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str, width: int | None = None) -> str:
    """A plain table; the first and last columns to the left, numbers between to the right.

    Args:
        head: the name of each column.
        rows: their cells.
        title: the line above; without one there is none.
        width: columns of the terminal it is for. Where a row is wider, its last cells are an indented line below it.
            None is a file, whose lines are as long as they are.
    """
    sizes = [max(map(cell_len, column)) for column in zip(head, *rows, strict=True)]
    parts = _parts(sizes, width)
    lines = [_folded(title, width)] if title else []
    for row in (head, *rows):
        cells = [_padded(row, column, size) for column, size in enumerate(sizes)]
        whole = [(" " * GAP).join(cells[column] for column in part).rstrip() for part in parts]
        lines += [whole[0], *(f"{' ' * INDENT}{rest}" for rest in whole[1:] if rest)]
    return "\n".join(lines)


def _parts(sizes: Sequence[int], width: int | None) -> list[list[int]]:
    """The columns, by the line of a row that they are on."""
    parts, used = [[0]], sizes[0]
    for column, size in enumerate(sizes[1:], 1):
        used += GAP + size
        if width is not None and used > width:
            parts.append([])
            used = INDENT + size
        parts[-1].append(column)
    return parts


def _padded(row: Sequence[str], column: int, size: int) -> str:
    cell, space = row[column], " " * (size - cell_len(row[column]))
    return f"{cell}{space}" if column in (0, len(row) - 1) else f"{space}{cell}"


def _fits(text: str, width: int | None) -> bool:
    return width is None or max(map(cell_len, text.splitlines())) <= width


def _folded(line: str, width: int | None) -> str:
    """The line, broken between words where the terminal ends."""
    if width is None:
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def study_table(summary: Sequence[dict[str, Any]], width: int | None = None) -> str:
    """Mean and spread over the seeds of every arm, from `study.results.summarised`.

    A row an arm; on a terminal that is too narrow for it, a row a figure. `width` as `table`.
    """
    shown = ("accuracy_float", "accuracy_chip", "channels", "parameters_nonzero", "synops_per_sample", "cores")
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in summary):
        of_arm = {row["figure"]: row for row in summary if row["arm"] == arm}
        rows.append((arm, *(_spread(key, of_arm[key]) for key in shown), str(of_arm["channels"]["seeds"])))
    head = ("arm", *(f"{ROWS[key].strip()} ({LABELS[key]})" for key in shown), "seeds")
    title = "mean (sample standard deviation over seeds)"
    if _fits(text := table(head, rows, title), width):
        return text
    arms, *figures, seeds = zip(*rows, strict=True)
    turned = [(ROWS[key].strip(), *cells, LABELS[key]) for key, cells in zip(shown, figures, strict=True)]
    return table(("", *arms, ""), [*turned, ("seeds", *seeds, "")], title, width)


def _spread(key: str, row: dict[str, Any]) -> str:
    factor = 100 if key.startswith("accuracy") else 1
    digits = ",.2f" if factor == 100 else ",.0f"
    spread = f" ({factor * row['std']:{digits}})" if row["std"] != "" else ""
    return f"{factor * row['mean']:{digits}}{spread}"
