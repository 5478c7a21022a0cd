"""How the figures of a comparison are named and written, alike in tables for a terminal and on a page."""

from __future__ import annotations

from typing import Any

from sca_deploy.evaluate import BANDS, LABELS

ROWS = {
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
    "cores_compiler_like": "  as the compiler would split",
    "synops_busiest_core_per_sample": "synaptic operations of the busiest core",
    "messages_per_sample": "messages between cores a sample",
    "hops_per_sample": "  their hops from tile to tile",
    "step_time_ns": "time of a step",
    "energy_nj_per_sample": "dynamic energy a sample",
    "static_energy_nj_per_sample": "static energy a sample",
}
"""What people read for each figure, in the order of the rows; one that starts with spaces belongs to the row above."""

UNITS = {
    "step_time_ns": ("us", 1e-3),
    "energy_nj_per_sample": ("nJ", 1.0),
    "static_energy_nj_per_sample": ("nJ", 1.0),
}
"""The unit a band is shown in, and what its number is multiplied by for that."""


def cell(key: str, value: Any) -> str:
    """A figure as people read it: a band with its ends, an accuracy in percent."""
    if key in UNITS:
        low, typical, high = (number(UNITS[key][1] * value[band]) for band in BANDS)
        return f"{typical} {UNITS[key][0]} ({low} to {high})"
    return scalar(key, value)


def scalar(key: str, value: float) -> str:
    """One number of a figure: an accuracy in percent, an end of a band in its unit without naming it."""
    if key.startswith("accuracy"):
        return in_percent(value)[0]
    return number(UNITS[key][1] * value if key in UNITS else value)


def in_percent(*shares: float, digits: int = 2) -> list[str]:
    """Shares of 1 in percent: to so many digits after the point, to more where these do not tell them apart.

    Two that differ are never written alike, nor is one that is not 0 or 1 written as 0 or 100 %.
    """
    values = [100 * share for share in shares]
    apart = {0.0, 100.0, *values}
    while len({f"{value:.{digits}f}" for value in apart}) < len(apart):
        digits += 1
    return [f"{value:.{digits}f} %" for value in values]


def percent(share: float) -> str:
    """A share of 1 in percent, to three digits; to more where it would read 100 % and is not."""
    value = 100 * share
    if 0 < value < 1e-4:
        return "< 0.0001 %"
    if value >= 999.5:
        return f"{value:,.0f} %"
    digits = 3
    while value != 100 and float(f"{value:.{digits}g}") == 100:
        digits += 1
    return f"{value:.{digits}g} %"


def counted(count: int, one: str, many: str = "") -> str:
    """1 core, 2 cores; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def number(value: float) -> str:
    """A count as it is, other numbers to three digits."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def ratio(value: float | None) -> str:
    """pruned / dense; a dash where dense has 0."""
    return "-" if value is None else f"{value:.3f}"


def label(key: str, evidence: dict[str, list[str]]) -> str:
    """Where a figure comes from, and of what kind the prices behind it are."""
    return f"{LABELS[key]}, prices {' and '.join(evidence[key])}" if key in evidence else LABELS[key]
