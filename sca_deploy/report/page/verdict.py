"""The verdict: one sentence, four cards and what stands behind them, made from the figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from sca_deploy.evaluate import LABELS
from sca_deploy.report.figures import ROWS, UNITS, label, scalar
from sca_deploy.report.figures import ratio as ratio_shown
from sca_deploy.report.page.chart import ARMS

CARDS = ("accuracy_chip", "cores", "synops_per_sample", "energy_nj_per_sample")
CARDS_IN_FLOATS = ("accuracy_float", "channels", "parameters", "parameters_nonzero")
"""The figures of the cards, and those where the networks were not lowered."""

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Value:
    """A number on the page: exactly, as compare.json has it, and as people read it."""

    exact: str
    shown: str


@dataclass(frozen=True)
class Card:
    """One figure of the verdict.

    Args:
        title: what it is.
        label: where it comes from.
        kind: "measured", "simulated" or "estimated".
        dense, pruned: the figure, typical where it is a band.
        ratio: pruned / dense; None where dense has 0.
        bars: of dense and pruned, in percent of the longer one.
        bounds: "", or the sign of the bound that the ratio is.
        notes: a line each.
    """

    title: str
    label: str
    kind: str
    dense: Value
    pruned: Value
    ratio: Value | None
    bars: tuple[float, float]
    bounds: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One row of the table of all figures; `values` of dense and pruned are (typical, low, high) or one number."""

    title: str
    indented: bool
    unit: str
    dense: tuple[Value, ...]
    pruned: tuple[Value, ...]
    ratio: tuple[Value, ...]
    bounds: Mapping[str, bool]
    label: str
    kind: str


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted in so many samples.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), p. 209.
    """
    z2 = Z95**2 / samples
    centre = (share + z2 / 2) / (1 + z2)
    half = Z95 * sqrt(share * (1 - share) / samples + z2 / (4 * samples)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def sentence(comparison: Mapping[str, Any]) -> str:
    """The verdict in one sentence, bounds said as bounds."""
    dense, pruned = comparison["dense"], comparison["pruned"]
    key, where = (
        ("accuracy_chip", "on the simulated chip") if "accuracy_chip" in dense else ("accuracy_float", "in floats")
    )
    before, after = (f"{100 * arm[key]:.1f} %" for arm in (dense, pruned))
    accuracy = f"{after}, as before," if before == after else f"{after} instead of {before}"
    parts = [f"{accuracy} {where} ({dense['test_samples']:,} test samples)"]
    if "cores" in dense:
        held, needed = (
            f"at least {comparison[arm]['cores']:,}"
            if comparison["lower_bound"][arm]
            else f"{comparison[arm]['cores']:,}"
            for arm in ("pruned", "dense")
        )
        parts.append(f"{held} core{'' if held == '1' else 's'} instead of {needed}")
    else:
        parts.append(f"{pruned['parameters']:,} parameters instead of {dense['parameters']:,}")
    for figure, name in (("synops_per_sample", "synaptic operations"), ("energy_nj_per_sample", "dynamic energy")):
        if figure in comparison["ratio"]:
            left = comparison["ratio"][figure]
            left = left["typical"] if isinstance(left, dict) else left
            parts.append(f"{_share(left)} of the {name}" if left is not None else f"no {name} in the dense network")
    return f"Pruned to {pruned['channels']:,} of {dense['channels']:,} channels: {', '.join(parts)}."


def _share(left: float) -> str:
    value = 100 * left
    return f"{value:.0f} %" if value >= 9.5 else f"{value:.2g} %"


def cards(comparison: Mapping[str, Any]) -> list[Card]:
    """The four figures of the verdict."""
    keys = CARDS if "cores" in comparison["dense"] else CARDS_IN_FLOATS
    return [_card(comparison, key) for key in keys]


def _card(comparison: Mapping[str, Any], key: str) -> Card:
    row = _row(comparison, key)
    unit = f" {row.unit}" if row.unit else ""
    shown = {
        arm: Value(value.exact, f"{'≥ ' if row.bounds[arm] else ''}{value.shown}{unit}")
        for arm, value in (("dense", row.dense[0]), ("pruned", row.pruned[0]))
    }
    left = comparison["ratio"][key]
    left = left["typical"] if isinstance(left, dict) else left
    return Card(
        title="neurocores" if key == "cores" else row.title,
        label=row.label,
        kind=row.kind,
        dense=shown["dense"],
        pruned=shown["pruned"],
        ratio=row.ratio[0] if left is not None else None,
        bars=_bars(left),
        bounds=_sign(row.bounds),
        notes=_notes(comparison, key, row),
    )


def _bars(left: float | None) -> tuple[float, float]:
    if left is None:
        return 0.0, 100.0
    return 100 / max(1.0, left), 100 * min(1.0, left)


def _sign(bounds: Mapping[str, bool]) -> str:
    """What is known of pruned / dense where one of them is a lower bound."""
    if bounds["dense"] and bounds["pruned"]:
        return "of the bounds:"
    return "≤" if bounds["dense"] else "≥" if bounds["pruned"] else ""


def _notes(comparison: Mapping[str, Any], key: str, row: Row) -> tuple[str, ...]:
    if key.startswith("accuracy"):
        samples = comparison["dense"]["test_samples"]
        ends = {arm: wilson(comparison[arm][key], samples) for arm in ARMS}
        lines = [
            f"{arm} {100 * low:.1f} to {100 * high:.1f} % (±\u00a0{50 * (high - low):.1f})"
            for arm, (low, high) in ends.items()
        ]
        return (*lines, f"95 % Wilson intervals, {samples:,} test samples")
    if len(row.dense) > 1:
        bands = {"dense": row.dense, "pruned": row.pruned}
        return tuple(f"{arm}: {band[1].shown} to {band[2].shown} {row.unit}" for arm, band in bands.items())
    if key == "cores":
        split = (f"{comparison[arm]['cores_compiler_like']:,} {arm}" for arm in ARMS)
        return (f"as the compiler would split: {', '.join(split)}",)
    return ()


def rows(comparison: Mapping[str, Any]) -> list[Row]:
    """Every figure of a comparison, all ends of its bands included."""
    return [_row(comparison, key) for key in ROWS if key in comparison["ratio"]]


def _row(comparison: Mapping[str, Any], key: str) -> Row:
    left = comparison["ratio"][key]
    bounded = {arm: key == "cores" and bool(comparison["lower_bound"][arm]) for arm in ARMS}
    return Row(
        title=ROWS[key].strip(),
        indented=ROWS[key].startswith(" "),
        unit=UNITS[key][0] if key in UNITS else "",
        dense=_values(key, comparison["dense"][key]),
        pruned=_values(key, comparison["pruned"][key]),
        ratio=tuple(Value(repr(end), ratio_shown(end)) for end in _ends(left)),
        bounds=bounded,
        label=label(key, comparison["evidence"]),
        kind=LABELS[key],
    )


def _values(key: str, value: Any) -> tuple[Value, ...]:
    return tuple(Value(repr(end), scalar(key, end)) for end in _ends(value))


def _ends(value: Any) -> tuple[Any, ...]:
    """Typical, low and high of a band; a number alone."""
    return (value["typical"], value["low"], value["high"]) if isinstance(value, dict) else (value,)
