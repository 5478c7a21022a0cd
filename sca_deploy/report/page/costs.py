"""What the layers do for one sample: how often their neurons fire, and the synaptic operations that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sca_deploy.report.figures import number, percent
from sca_deploy.report.page.chart import (
    ARMS,
    Chart,
    Missing,
    Numbers,
    bars_by_layer,
    evaluated,
    listed,
    ordered,
)


def firing_rates(document: Mapping[str, Any]) -> Chart | Missing:
    """The share of neurons of each layer that fire in a step, a mean over the test set."""
    title = "Firing rates"
    counts, remarks = evaluated(document, "counts")
    if not counts:
        return Missing(title, remarks)
    readouts = {layer["name"] for arm in ARMS for layer in document["arms"][arm]["layers"] if layer["readout"]}
    # Every neuron is updated once a step and sample, so updates are neurons x steps x samples.
    rates = {
        arm: {
            layer["name"]: layer["spikes"] / layer["updates"]
            for layer in of_arm["layers"]
            if layer["updates"] and layer["name"] not in readouts
        }
        for arm, of_arm in counts.items()
    }
    shown = {arm: {layer: percent(rate) for layer, rate in of_arm.items()} for arm, of_arm in rates.items()}
    if not any(rates.values()):
        return Missing(title, ["no layer of these networks fires"])
    firing = {arm: [layer for layer in counts[arm]["layers"] if layer["name"] in rates[arm]] for arm in rates}
    whole = {
        arm: sum(layer["spikes"] for layer in layers) / sum(layer["updates"] for layer in layers)
        for arm, layers in firing.items()
        if layers
    }
    in_all = [f"{percent(rate)} in the {arm} network" for arm, rate in whole.items()]
    spikes = {
        arm: {layer["name"]: number(layer["spikes"] / of_arm["samples"]) for layer in of_arm["layers"]}
        for arm, of_arm in counts.items()
    }
    return Chart(
        key="rates",
        title=title,
        labels=("simulated",),
        note="The share of a layer's neurons that fire in a time step, on the simulated chip: spikes / (neurons, times "
        "steps, times test samples). A read-out does not fire and is left out.",
        says=f"Over all layers that fire {listed(in_all)}.",
        figure=bars_by_layer(
            {arm: {layer: 100 * rate for layer, rate in of_arm.items()} for arm, of_arm in rates.items()},
            shown,
            "% firing in a step",
        ),
        numbers=Numbers(
            ("layer", *(f"{arm}, rate" for arm in ARMS), *(f"{arm}, spikes a sample" for arm in ARMS)),
            [
                (layer, *(table.get(arm, {}).get(layer, "-") for table in (shown, spikes) for arm in ARMS))
                for layer in ordered(*shown.values())
            ],
        ),
        remarks=remarks,
    )


def synops(document: Mapping[str, Any]) -> Chart | Missing:
    """Synaptic operations of each layer for one sample, a mean over the test set."""
    title = "Synaptic operations, layer by layer"
    counts, remarks = evaluated(document, "counts")
    if not counts:
        return Missing(title, remarks)
    operations, stored = (
        {
            arm: {layer["name"]: layer[key] / of_arm["samples"] for layer in of_arm["layers"]}
            for arm, of_arm in counts.items()
        }
        for key in ("synops", "synops_stored")
    )
    shown, with_zeros = (
        {arm: {layer: number(value) for layer, value in of_arm.items()} for arm, of_arm in table.items()}
        for table in (operations, stored)
    )
    totals = [f"{number(of_arm['per_sample']['synops'])} in the {arm} network" for arm, of_arm in counts.items()]
    most = [
        f"most of them in {max(of_arm, key=lambda name: of_arm[name])} ({arm})" for arm, of_arm in operations.items()
    ]
    return Chart(
        key="synops",
        title=title,
        labels=("simulated",),
        note="One message meeting one synapse whose weight is not 0, counted where the synapse is, on the simulated "
        "chip. Mean over the test set.",
        says=f"A sample takes {listed(totals)}, {listed(most)}.",
        figure=bars_by_layer(operations, shown, "operations a sample"),
        numbers=Numbers(
            ("layer", *ARMS, *(f"{arm}, with stored zeros" for arm in ARMS)),
            [
                (layer, *(table.get(arm, {}).get(layer, "-") for table in (shown, with_zeros) for arm in ARMS))
                for layer in ordered(*shown.values())
            ],
        ),
        remarks=remarks,
    )
