"""Results as tables for a terminal; every figure says whether it is measured, simulated or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from sca_deploy.evaluate import LABELS

_ROWS = {
    "accuracy_float": "accuracy, float",
    "accuracy_chip": "accuracy, chip integers",
    "channels": "channels",
    "parameters": "parameters",
    "parameters_nonzero": "  that are not 0",
    "spikes_per_sample": "spikes a sample",
    "synops_per_sample": "synaptic operations a sample",
    "synops_stored_per_sample": "  with stored zeros",
    "neuron_updates_per_sample": "neuron updates a sample",
    "cores": "neurocores",
    "energy_nj_per_sample": "energy a sample",
}


def comparison_table(document: dict[str, Any]) -> str:
    """Dense against pruned, from the document of `compare`."""
    rows = []
    for key, title in _ROWS.items():
        dense, pruned, ratio = (document[side][key] for side in ("dense", "pruned", "ratio"))
        shown = ratio["typical"] if isinstance(ratio, dict) else ratio
        rows.append((title, _cell(key, dense), _cell(key, pruned), _ratio(shown), LABELS[key]))
    samples = document["dense"]["test_samples"]
    return table(("", "dense", "pruned", "pruned / dense", ""), rows, f"{samples} test samples")


def mapping_table(document: dict[str, Any]) -> str:
    """Cores a layer, from `Mapping.as_dict`."""
    rows = [
        (
            layer["name"],
            f">= {layer['cores']}" if layer["lower_bound"] else str(layer["cores"]),
            f"{layer['neurons']:,}",
            f"{layer['synapse_words']:,}",
            f"{layer['axon_in']:,}",
            layer["binding"],
        )
        for layer in document["layers"]
    ]
    head = ("layer", "cores", "neurons", "synapse words a core", "axons in", "binding")
    least = "at least " if document["lower_bound"] else ""
    return table(head, rows, f"{least}{document['cores']} cores of {document['chip']} (estimated)")


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


def _cell(key: str, value: Any) -> str:
    if key == "energy_nj_per_sample":
        return f"{_number(value['typical'])} nJ ({_number(value['low'])} to {_number(value['high'])})"
    if key.startswith("accuracy"):
        return f"{100 * value:.2f} %"
    return _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def study_table(summary: Sequence[dict[str, Any]]) -> str:
    """Mean and spread over the seeds of every arm, from `study.results.summarised`."""
    shown = ("accuracy_float", "accuracy_chip", "channels", "parameters_nonzero", "synops_per_sample", "cores")
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in summary):
        of_arm = {row["figure"]: row for row in summary if row["arm"] == arm}
        rows.append((arm, *(_spread(key, of_arm[key]) for key in shown), str(of_arm["channels"]["seeds"])))
    head = ("arm", *(f"{_ROWS[key].strip()} ({LABELS[key]})" for key in shown), "seeds")
    return table(head, rows, "mean (sample standard deviation over seeds)")


def _spread(key: str, row: dict[str, Any]) -> str:
    factor = 100 if key.startswith("accuracy") else 1
    digits = ",.2f" if factor == 100 else ",.0f"
    spread = f" ({factor * row['std']:{digits}})" if row["std"] != "" else ""
    return f"{factor * row['mean']:{digits}}{spread}"
