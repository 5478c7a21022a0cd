"""A network held against its budget, as lines and as a table for people."""

from __future__ import annotations

from typing import Any

from sca_deploy.budget import amount
from sca_deploy.report.figures import counted
from sca_deploy.report.tables import table


def budget_lines(report: dict[str, Any]) -> list[str]:
    """What `fitting.fit` found, in a few lines: what is taken, what had to go, where the cores change."""
    lines = [words] if (words := trimmed_words(report)) else []
    for edge in report["edges"]:
        told = [_edge(edge[side]) for side in ("fewer", "more") if edge[side] is not None]
        if told:
            lines.append(f"{edge['name']} has {counted(edge['channels'], 'channel')}; {', '.join(told)}")
    return lines


def trimmed_words(report: dict[str, Any]) -> str:
    """What had to go after the training; empty if nothing had to."""
    gone = ", ".join(f"{number} of {name}" for name, number in report["trimmed"].items())
    return f"measured above its budget once lowered, so channels went: {gone}" if gone else ""


def fit_table(report: dict[str, Any], width: int | None = None) -> str:
    """Limit and use of every resource, from the report of `fitting.fit`; `width` as `tables.table`."""
    rows = [
        (
            amount(found["name"], found["limit"]),
            f"{found['value']:,.6g}",
            f"{100 * found['upper'] / found['limit']:.1f} %",
            found["layer"],
            found["label"],
        )
        for found in report["resources"]
    ]
    title = f"budget on {report['chip']}"
    if report["samples"]:
        title += (
            f", activity of {counted(report['samples'], 'training sample')}; the share has three standard errors on it"
        )
    return table(("limit", "takes", "of the limit", "most of it in", ""), rows, title, width)


def _edge(edge: dict[str, int]) -> str:
    change = abs(edge["cores"])
    verb = "would take" if edge["cores"] > 0 else "would save"
    more = " more" if edge["cores"] > 0 else ""
    return f"{edge['channels']:,} {verb} {counted(change, 'core')}{more}"
