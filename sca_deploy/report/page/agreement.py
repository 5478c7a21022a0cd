"""How far the chip's integers leave the float network, and whether Lava says the same as the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sca_deploy.report.figures import counted, in_percent, percent
from sca_deploy.report.page.chart import (
    ARMS,
    Chart,
    Missing,
    Numbers,
    Table,
    bars_by_layer,
    listed,
    ordered,
    present,
    why_missing,
)


def differing_spikes(document: Mapping[str, Any]) -> Chart | Missing:
    """The share of values (neuron, step, sample) in which float network and chip differ, layer by layer."""
    title = "Float network against chip"
    found = {
        arm: evaluation["agreement"]
        for arm, evaluation in present(document, "evaluation").items()
        if evaluation.get("agreement")
    }
    remarks = why_missing(document, "evaluation") + why_missing(document, "agreement")
    if not found:
        return Missing(title, remarks)
    shares = {arm: {layer["name"]: layer["differ"] for layer in of_arm["layers"]} for arm, of_arm in found.items()}
    layers = {arm: {layer["name"]: layer for layer in of_arm["layers"]} for arm, of_arm in found.items()}
    shown = {arm: {name: percent(share) for name, share in of_arm.items()} for arm, of_arm in shares.items()}
    alike = [
        f"{round(of_arm['same_answer'] * of_arm['samples']):,} of {counted(of_arm['samples'], 'test sample')} ({arm})"
        for arm, of_arm in found.items()
    ]
    compared = ordered(_first(of_arm["compared"]) for of_arm in found.values())
    head = ["layer"]
    rows = []
    for arm in found:
        head += [f"{arm}, float spikes", f"{arm}, chip spikes", f"{arm}, differ"]
    for name in ordered(*shares.values()):
        cells = [name]
        for arm in found:
            layer = layers[arm].get(name)
            cells += (
                [f"{layer['spikes_float']:,}", f"{layer['spikes_chip']:,}", shown[arm][name]] if layer else ["-"] * 3
            )
        rows.append(cells)
    return Chart(
        key="differ",
        title=title,
        labels=("measured", "simulated"),
        note="The share of values (neuron, step, sample) in which one fires and the other does not, over the first "
        f"{listed(compared)}. What a layer differs in, the next ones inherit.",
        says=f"Float network and chip give the same answer for {listed(alike)}.",
        figure=bars_by_layer(
            {arm: {name: 100 * share for name, share in of_arm.items()} for arm, of_arm in shares.items()},
            shown,
            "% of (neuron, step) values that differ",
        ),
        numbers=Numbers(head, rows),
        remarks=[f"Same answer from float network and chip: {which}." for which in alike] + remarks,
    )


def _first(samples: int) -> str:
    return counted(samples, "test sample") if samples > 1 else "test sample"


def calibration(document: Mapping[str, Any]) -> Table | Missing:
    """What the search for scales gained, layer by layer."""
    title = "Scales of the integers"
    found = {arm: report for arm, report in present(document, "calibration").items() if report.get("layers")}
    remarks = tuple(why_missing(document, "calibration"))
    if not found:
        return Missing(title, remarks or ("the scales of this network were not searched",))
    rows = [
        (
            layer["name"],
            arm,
            f"{layer['largest']:.1f}",
            f"{layer['chosen']:.1f}",
            in_percent(layer["before"])[0],
            in_percent(layer["after"])[0],
        )
        for arm, report in found.items()
        for layer in report["layers"]
    ]
    drops = tuple(f"{arm}: {_finetuned(report)}" for arm, report in found.items() if "drop" in report)
    return Table(
        title=title,
        labels=("simulated",),
        note="A scale is how many integer units stand for 1 of the float model. The largest at which "
        "everything fits is not always the best: smaller ones are tried too, and larger ones, which clip what does not "
        "fit. Shown is the share of values (neuron, step, sample) in which one fires and the other does "
        "not, at either, on training samples (for a read-out the mean error of its potential, relative to its spread).",
        numbers=Numbers(("layer", "network", "largest", "chosen", "differ at the largest", "at the chosen"), rows, 2),
        remarks=(*drops, *remarks),
    )


def _finetuned(report: Mapping[str, Any]) -> str:
    """What fine-tuning in integers did; after 0 epochs it was not needed or broke off at once, which is not logged."""
    if report["epochs"] == 0:
        return f"no fine-tuning in integers took place; on training samples the chip loses {report['drop']:.2f} points."
    return (
        f"{counted(report['epochs'], 'epoch')} of fine-tuning in integers took what the chip loses on training samples "
        f"from {report['drop_before']:.2f} to {report['drop']:.2f} points."
    )


def verification(document: Mapping[str, Any]) -> Table | Missing:
    """Values compared with Lava and how many differ, layer by layer."""
    title = "Verification against Lava"
    found = present(document, "verification")
    remarks = tuple(why_missing(document, "verification"))
    if not found:
        return Missing(title, remarks)
    rows = [
        (layer["name"], arm, f"{layer['values']:,}", f"{layer['spikes']:,}", f"{layer['mismatches']:,}")
        for arm, report in found.items()
        for layer in report["layers"]
    ]
    seconds = tuple(
        f"{arm}: {counted(report['samples'], 'sample')} of {counted(report['steps'], 'step')}; "
        f"Lava took {report['lava_seconds']:.2f} s, the simulator {report['simulator_seconds']:.3f} s."
        for arm, report in found.items()
    )
    return Table(
        title=title,
        labels=("simulated",),
        note="The exported network run by Lava's own processes: every spike of every layer and the read-out's "
        "potential compared with the simulator.",
        numbers=Numbers(("layer", "network", "values compared", "spikes", "mismatches"), rows, 2),
        remarks=(*seconds, *remarks),
    )


def verified(document: Mapping[str, Any]) -> list[str]:
    """What was verified, in a line each arm; why not, where it was not."""
    lines = []
    for arm in ARMS:
        report = document["arms"][arm]["verification"]
        if report:
            values = sum(layer["values"] for layer in report["layers"])
            lines.append(
                f"{arm}: {counted(report['mismatches'], 'mismatch', 'mismatches')} against Lava in "
                f"{counted(values, 'value')} ({counted(report['samples'], 'sample')})"
            )
        else:
            reason = document["arms"][arm]["missing"].get("verification", "there is no verify.json")
            lines.append(f"{arm}: not verified: {reason}")
    return lines
