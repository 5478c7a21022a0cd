"""What the chip had left: every limit with what is taken of it, and where a few channels would change the cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sca_deploy.budget import WORDS
from sca_deploy.report.budgets import trimmed_words
from sca_deploy.report.figures import counted, number, percent
from sca_deploy.report.page.chart import ARMS, Missing, Numbers, Table, present, why_missing
from sca_deploy.report.page.verdict import Value


@dataclass(frozen=True)
class Limit:
    """One limit, and what the network takes of it.

    Args:
        resource: in words, with its unit.
        limit, taken: how much was left, and how much test samples take.
        share: of the limit, in words.
        filled: of the limit, in percent, 100 at most.
        kept: whether no more is taken.
        upper: what it was held to on training samples, three standard errors on it, as a share; "-" if not known.
        layer: the one that takes most; "-" if not known.
        label: how it is known.
    """

    resource: str
    limit: Value
    taken: Value
    share: str
    filled: float
    kept: bool
    upper: str
    layer: str
    label: str


@dataclass(frozen=True)
class Budget:
    """The limits of one arm.

    Args:
        arm: "dense" or "pruned".
        limits: one each.
        note: on which samples.
        remarks: what is not in it, and what had to go, a line each.
    """

    arm: str
    limits: tuple[Limit, ...]
    note: str
    remarks: tuple[str, ...]


def budgets(document: Mapping[str, Any]) -> list[Budget]:
    """The budgets of the arms that have one."""
    return [_budget(document, arm, found) for arm, found in _asked(document).items()]


def kept(document: Mapping[str, Any]) -> list[str]:
    """A line for each arm that is inside its budget: 5 of 5 cores, how each figure is known."""
    return [
        f"{arm}: inside its budget: {', '.join(map(_taken, found))}"
        for arm, found in _asked(document).items()
        if all(limit["kept"] for limit in found)
    ]


def broken(document: Mapping[str, Any]) -> list[str]:
    """A line for each arm that takes more than it was to, with what it takes too much of."""
    over = {arm: [limit for limit in found if not limit["kept"]] for arm, found in _asked(document).items()}
    return [
        f"{arm}: above its budget on test samples: {', '.join(map(_taken, found))}"
        for arm, found in over.items()
        if found
    ]


def edges(document: Mapping[str, Any]) -> list[Table | Missing]:
    """Where the cores change, layer by layer, for each arm that has a budget."""
    return [_edges(document, arm) for arm in _asked(document)]


def _edges(document: Mapping[str, Any], arm: str) -> Table | Missing:
    title = f"{arm}: where the cores change"
    report = document["arms"][arm]["budget"]
    if not report:
        return Missing(title, why_missing(document, "budget", [arm]))
    rows = [
        (edge["name"], f"{edge['channels']:,}", _edge(edge["fewer"]), _edge(edge["more"])) for edge in report["edges"]
    ]
    return Table(
        title=title,
        labels=("estimated",),
        note="The nearest numbers of channels at which the network, as the compiler would split it, takes another "
        "number of cores while all other layers stay as they are. A dash: there is none.",
        numbers=Numbers(("layer", "channels", "with fewer", "with more"), rows),
    )


def _asked(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The limits of the arms that have some, against what their test samples take."""
    found = present(document, "evaluation")
    return {arm: found[arm]["budget"] for arm in ARMS if "budget" in found.get(arm, {})}


def _budget(document: Mapping[str, Any], arm: str, found: list[dict[str, Any]]) -> Budget:
    report = document["arms"][arm]["budget"]
    held = {one["name"]: one for one in report["resources"]} if report else {}
    samples = document["arms"][arm]["evaluation"]["counts"]["samples"]
    note = f"What the {arm} network takes on {counted(samples, 'test sample')} of what it was allowed."
    if report and report["samples"]:
        note += (
            f" In training it was held to that on {counted(report['samples'], 'training sample')}, "
            "with three standard errors on top of what depends on them."
        )
    gone = trimmed_words(report) if report else ""
    return Budget(
        arm=arm,
        limits=tuple(_limit(limit, held.get(limit["name"])) for limit in found),
        note=note,
        remarks=(*([f"{gone[0].upper()}{gone[1:]}."] if gone else []), *why_missing(document, "budget", [arm])),
    )


def _limit(found: Mapping[str, Any], held: Mapping[str, Any] | None) -> Limit:
    taken, limit = _apart(found["value"], found["limit"])
    share = found["value"] / found["limit"]
    return Limit(
        resource=WORDS[found["name"]],
        limit=Value(repr(found["limit"]), limit),
        taken=Value(repr(found["value"]), taken),
        share=percent(share),
        filled=min(100.0, 100 * share),
        kept=found["kept"],
        upper=percent(held["upper"] / held["limit"]) if held else "-",
        layer=held["layer"] if held else "-",
        label=found["label"],
    )


def _taken(found: Mapping[str, Any]) -> str:
    """5 of 5 cores (estimated)."""
    return f"{' of '.join(_apart(found['value'], found['limit']))} {WORDS[found['name']]} ({found['label']})"


def _apart(taken: float, limit: float) -> tuple[str, str]:
    """Both numbers, in as many digits as tell them apart."""
    shown, digits = (number(taken), number(limit)), 0
    while taken != limit and shown[0] == shown[1]:
        digits += 1
        shown = f"{taken:,.{digits}f}", f"{limit:,.{digits}f}"
    return shown


def _edge(edge: Mapping[str, int] | None) -> str:
    """32: 4 cores more."""
    if edge is None:
        return "-"
    return f"{edge['channels']:,}: {counted(abs(edge['cores']), 'core')} {'more' if edge['cores'] > 0 else 'less'}"
