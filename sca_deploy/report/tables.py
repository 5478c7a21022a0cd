"""Results as tables for a terminal; every figure says whether it is measured, simulated or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table

from sca_deploy.evaluate import LABELS
from sca_deploy.report.figures import ROWS, cell, label, ratio

STEPS_SHOWN = 30
"""Steps of a narrower network that are listed for people."""


def comparison_table(document: dict[str, Any]) -> str:
    """Dense against pruned, from the document of `compare`, and below it what to know before believing it."""
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
        rows.append((title, *cells, shown, label(key, document["evidence"])))
    samples = document["dense"]["test_samples"]
    shown = table(("", "dense", "pruned", "pruned / dense", ""), rows, f"{samples} test samples")
    lines = [f"warning: {arm}: {line}" for arm, found in document["warnings"].items() for line in found]
    return "\n".join((shown, *lines))


def mapping_table(document: dict[str, Any]) -> str:
    """Cores a layer, from `Mapping.as_dict`; neurons, words and axons are of the fullest core."""
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
        f"{document['title']}: {least}{document['cores']:,} cores of {document['chip']} (estimated), "
        f"{document['compiler_like']:,} as the compiler would split (inferred); {_systems(document)}"
    )
    return table((*head, "room for", "a core less at", "binding"), rows, title)


def what_if_table(document: dict[str, Any]) -> str:
    """Cores against the fraction of channels kept, from `WhatIf.as_dict`; of many steps those that change most."""
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
    return table(("up to", "cores", "compiler-like", "channels", "smallest system", ""), rows, title)


def _systems(document: dict[str, Any]) -> str:
    chips = f"{document['chips']:,} chip{'s' if document['chips'] > 1 else ''}"
    held, larger = (document[key] or "no system" for key in ("system", "compiler_like_system"))
    return f"{chips}, {held} holds it" + (f" ({larger} as the compiler would split)" if larger != held else "")


def _room(headroom: dict[str, Any]) -> str:
    return f"{headroom['more']:,} {headroom['unit']}" if headroom["more"] else "-"


def _saving(headroom: dict[str, Any]) -> str:
    """How many columns or neurons, or how many channels, would have to go to save a core."""
    fewer = [(headroom["fewer"], headroom["unit"]), (headroom["channels_fewer"], "channels")]
    return " or ".join(f"-{count:,} {unit}" for count, unit in fewer if count) or "-"


def verification_table(document: dict[str, Any]) -> str:
    """Values compared and mismatches a layer, from `Verification.as_dict`."""
    rows = [
        (layer["name"], f"{layer['values']:,}", f"{layer['spikes']:,}", str(layer["mismatches"]))
        for layer in document["layers"]
    ]
    title = f"{document['samples']} samples, {document['steps']} steps, simulator against Lava"
    return table(("layer", "values compared", "spikes", "mismatches"), rows, title)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    """A plain table; the first and last columns to the left, numbers between to the right."""
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for position, name in enumerate(head):
        outer = position in (0, len(head) - 1)
        grid.add_column(name, justify="left" if outer else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    buffer = StringIO()
    Console(file=buffer, width=1000, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def study_table(summary: Sequence[dict[str, Any]]) -> str:
    """Mean and spread over the seeds of every arm, from `study.results.summarised`."""
    shown = ("accuracy_float", "accuracy_chip", "channels", "parameters_nonzero", "synops_per_sample", "cores")
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in summary):
        of_arm = {row["figure"]: row for row in summary if row["arm"] == arm}
        rows.append((arm, *(_spread(key, of_arm[key]) for key in shown), str(of_arm["channels"]["seeds"])))
    head = ("arm", *(f"{ROWS[key].strip()} ({LABELS[key]})" for key in shown), "seeds")
    return table(head, rows, "mean (sample standard deviation over seeds)")


def _spread(key: str, row: dict[str, Any]) -> str:
    factor = 100 if key.startswith("accuracy") else 1
    digits = ",.2f" if factor == 100 else ",.0f"
    spread = f" ({factor * row['std']:{digits}})" if row["std"] != "" else ""
    return f"{factor * row['mean']:{digits}}{spread}"
