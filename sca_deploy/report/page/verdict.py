"""The verdict: one sentence, four cards and what stands behind them, made from the figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from sca_deploy.evaluate import LABELS
from sca_deploy.report.figures import ROWS, UNITS, counted, in_percent, label, percent, scalar
from sca_deploy.report.figures import ratio as ratio_shown
from sca_deploy.report.page.chart import ARMS

CARDS = ("accuracy_chip", "cores", "synops_per_sample", "energy_nj_per_sample")
CARDS_IN_FLOATS = ("accuracy_float", "channels", "parameters", "parameters_nonzero")
"""The figures of the cards, and those where the networks were not lowered."""
TITLES = {"cores": "neurocores", "parameters_nonzero": "parameters that are not 0"}
"""What heads a card where the row of the table does not say it alone."""

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
        bounds: "", or the sign of the bound that the ratio is, see `Row.sign`.
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

    @property
    def sign(self) -> str:
        """What is known of pruned / dense where one of them is a lower bound."""
        if self.bounds["dense"] and self.bounds["pruned"]:
            return "of the bounds:"
        return "≤" if self.bounds["dense"] else "≥" if self.bounds["pruned"] else ""


def wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted in so many samples.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), p. 209.
    """
    if share in (0, 1):  # rounding must not part the end from the share
        inner = 1 / (1 + Z95**2 / samples)
        return (0.0, 1 - inner) if share == 0 else (inner, 1.0)
    z2 = Z95**2 / samples
    centre = (share + z2 / 2) / (1 + z2)
    half = Z95 * sqrt(share * (1 - share) / samples + z2 / (4 * samples)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def sentence(comparison: Mapping[str, Any]) -> str:
    """The verdict in one sentence, bounds said as bounds and estimates as estimates."""
    parts = [_accuracy(comparison), *_costs(comparison)]
    return f"{_pruned_to(comparison)}: {', '.join(parts)}."


def _pruned_to(comparison: Mapping[str, Any]) -> str:
    """What pruning left: channels, or parameters where it took none of these."""
    dense, pruned = comparison["dense"], comparison["pruned"]
    if pruned["channels"] != dense["channels"]:
        return f"Pruned to {pruned['channels']:,} of {counted(dense['channels'], 'channel')}"
    left, all_of_them = pruned["parameters_nonzero"], dense["parameters_nonzero"]
    return f"Pruned to {left:,} of {all_of_them:,} parameters that are not 0"


def _accuracy(comparison: Mapping[str, Any]) -> str:
    dense, pruned = comparison["dense"], comparison["pruned"]
    key, where = (
        ("accuracy_chip", "on the simulated chip") if "accuracy_chip" in dense else ("accuracy_float", "in floats")
    )
    before, after = in_percent(dense[key], pruned[key])
    accuracy = f"{after}, as before," if dense[key] == pruned[key] else f"{after} instead of {before}"
    return f"{accuracy} {where} ({counted(dense['test_samples'], 'test sample')})"


def _costs(comparison: Mapping[str, Any]) -> list[str]:
    """What is left of the costs: first what was counted, then what was estimated."""
    dense, pruned = comparison["dense"], comparison["pruned"]
    if "cores" not in dense:
        return [_instead(counted(pruned["parameters"], "parameter"), counted(dense["parameters"], "parameter"))]
    needed, held = (
        f"{'at least ' if comparison['lower_bound'][arm] else ''}{counted(comparison[arm]['cores'], 'core')}"
        for arm in ARMS
    )
    return [
        _left(comparison, "synops_per_sample", "synaptic operations"),
        f"estimated: {_instead(held, needed)}",
        _left(comparison, "energy_nj_per_sample", "dynamic energy"),
    ]


def _instead(after: str, before: str) -> str:
    """4 cores instead of 19; the second without its noun."""
    return f"{after}, as before" if after == before else f"{after} instead of {before.rsplit(' ', 1)[0]}"


def _left(comparison: Mapping[str, Any], figure: str, name: str) -> str:
    left = _typical(comparison["ratio"][figure])
    return f"no {name} in the dense network" if left is None else f"{_share(left)} of the {name}"


def _typical(value: Any) -> Any:
    """The typical end of a band; a number alone."""
    return value["typical"] if isinstance(value, dict) else value


def _share(left: float) -> str:
    """In percent to two digits, and never 0 or 100 % of what is neither."""
    value = 100 * left
    shown = f"{value:.0f} %" if value >= 9.5 else f"{value:.2g} %"
    return percent(left) if value < 1e-4 or shown == "100 %" else shown


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
    left = _typical(comparison["ratio"][key])
    return Card(
        title=TITLES.get(key, row.title),
        label=row.label,
        kind=row.kind,
        dense=shown["dense"],
        pruned=shown["pruned"],
        ratio=row.ratio[0] if left is not None else None,
        bars=_bars(left, float(row.pruned[0].exact)),
        bounds=row.sign,
        notes=_notes(comparison, key, row),
    )


def _bars(left: float | None, pruned: float) -> tuple[float, float]:
    if left is None:
        return 0.0, 100.0 if pruned else 0.0
    return 100 / max(1.0, left), 100 * min(1.0, left)


def _notes(comparison: Mapping[str, Any], key: str, row: Row) -> tuple[str, ...]:
    if key.startswith("accuracy"):
        samples = comparison["dense"]["test_samples"]
        ends = {arm: wilson(comparison[arm][key], samples) for arm in ARMS}
        shown = {arm: [in_percent(end, digits=1)[0] for end in interval] for arm, interval in ends.items()}
        lines = [f"{arm} {low.removesuffix(' %')} to {high}" for arm, (low, high) in shown.items()]
        return (*lines, f"95 % Wilson intervals, {counted(samples, 'test sample')}")
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
