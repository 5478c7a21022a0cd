"""Energy and time: every priced term with its band, static energy apart, and what sets the time of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sca_deploy.evaluate import BANDS
from sca_deploy.report.figures import cell, number
from sca_deploy.report.page.chart import ARMS, Chart, Missing, Numbers, bars_by_layer, evaluated, listed, ordered

DYNAMIC, STATIC = "dynamic energy", "static energy"


def by_term(document: Mapping[str, Any]) -> Chart | Missing:
    """Dynamic energy of a sample by what it is spent on."""
    title = "Dynamic energy of a sample, by term"
    energies, remarks = evaluated(document, "energy")
    if not energies:
        return Missing(title, remarks)
    bands = {arm: {term["name"]: term for term in energy["terms"]} for arm, energy in energies.items()}
    largest = [f"{max(terms.values(), key=_typical)['name']} ({arm})" for arm, terms in bands.items()]
    totals = [f"{arm} {cell('energy_nj_per_sample', energy)}" for arm, energy in energies.items()]
    return Chart(
        key="energy",
        title=title,
        labels=("estimated",),
        note="Simulated counts times the chip file's price of each event. Bars are the typical price, whiskers its "
        f"band from low to high; the prices are {_evidence(energies)}.",
        says=f"In all {listed(totals)}; the largest term is {listed(largest)}.",
        figure=_banded(bands),
        numbers=_numbers("term", bands, counted=True),
        remarks=[
            *remarks,
            f"Not in it: {'; '.join(ordered(*(energy['not_priced'] for energy in energies.values())))}.",
        ],
    )


def dynamic_and_static(document: Mapping[str, Any]) -> Chart | Missing:
    """What moves against what only waits."""
    title = "Dynamic and static energy of a sample"
    dynamic, remarks = evaluated(document, "energy")
    static, _ = evaluated(document, "static_energy")
    if not dynamic or not static:
        return Missing(title, remarks)
    bands = {arm: {DYNAMIC: dynamic[arm], STATIC: static[arm]} for arm in dynamic}
    said = [
        f"{arm} {part} {cell('energy_nj_per_sample', band)}"
        for arm, of_arm in bands.items()
        for part, band in of_arm.items()
    ]
    return Chart(
        key="static",
        title=title,
        labels=("estimated",),
        note="Static energy is the power of chips that only wait, times how long a sample takes; it is kept apart "
        "because it says more about the chip than about the network.",
        says=f"{listed(said)}.",
        figure=_banded(bands),
        numbers=_numbers("part", bands),
        remarks=remarks,
    )


def step_time(document: Mapping[str, Any]) -> Chart | Missing:
    """What the busiest core spends a step on."""
    title = "Time of a step"
    times, remarks = evaluated(document, "step_time")
    if not times:
        return Missing(title, remarks)
    terms = {arm: {term["name"]: term["typical"] / 1000 for term in time["terms"]} for arm, time in times.items()}
    shown = {arm: {name: f"{number(value)} us" for name, value in of_arm.items()} for arm, of_arm in terms.items()}
    whole = [f"{arm} {cell('step_time_ns', time['step'])}" for arm, time in times.items()]
    bound = [
        f"core {time['busiest_core']['core']} of {time['busiest_core']['layer']}, bound by {time['bound_by']} ({arm})"
        for arm, time in times.items()
    ]
    return Chart(
        key="time",
        title=title,
        labels=("estimated",),
        note="All cores wait for the busiest one, then for the barrier. Shown is what that core spends a step on, at "
        f"typical prices, which are {_evidence(times)}.",
        says=f"A step takes {listed(whole)}. The busiest core is {listed(bound)}.",
        figure=bars_by_layer(terms, shown, "us"),
        numbers=Numbers(
            ("term", *ARMS),
            [(name, *(shown.get(arm, {}).get(name, "-") for arm in ARMS)) for name in ordered(*terms.values())],
        ),
        remarks=[
            *remarks,
            *(f"The busiest core is {which}." for which in bound),
            f"Not in it: {'; '.join(ordered(*(time['not_included'] for time in times.values())))}.",
        ],
    )


def _banded(bands: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Bars of the typical values in nJ with whiskers from low to high."""
    return bars_by_layer(
        {arm: {name: band["typical"] for name, band in of_arm.items()} for arm, of_arm in bands.items()},
        {
            arm: {name: cell("energy_nj_per_sample", band) for name, band in of_arm.items()}
            for arm, of_arm in bands.items()
        },
        "nJ a sample",
        errors={
            arm: {
                name: (band["typical"] - band["low"], band["high"] - band["typical"]) for name, band in of_arm.items()
            }
            for arm, of_arm in bands.items()
        },
    )


def _numbers(first: str, bands: Mapping[str, Mapping[str, Any]], counted: bool = False) -> Numbers:
    head = [first]
    for arm in bands:
        head += [*([f"{arm}, events a sample"] if counted else []), *(f"{arm}, {band}, nJ" for band in BANDS)]
    rows = []
    for name in ordered(*bands.values()):
        cells = [name]
        for of_arm in bands.values():
            keys = (*(["count"] if counted else []), *BANDS)
            cells += [number(of_arm[name][key]) if name in of_arm else "-" for key in keys]
        rows.append(cells)
    return Numbers(head, rows)


def _typical(band: Mapping[str, float]) -> float:
    return band["typical"]


def _evidence(parts: Mapping[str, Mapping[str, Any]]) -> str:
    return listed(ordered(*(part["evidence"] for part in parts.values())))
