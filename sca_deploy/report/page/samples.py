"""A few test samples inside the networks: spike rasters, membrane traces and how the answer forms.

The figures here are forms without data. `script.js` fills them with the sample, network, layer and neuron that are
chosen, from the packed traces, in which a layer's raster is one bit a neuron and step.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from sca_deploy.report.page.chart import ARMS, POINTS, Missing, Numbers, escaped, ordered, plain, shortened, why_missing

THUMBNAIL = 96
"""Pixels that the longer side of an input is drawn with, at least."""


def missing(document: Mapping[str, Any]) -> Missing | None:
    """Why there is no sample to look into; None if there is one."""
    return None if _traces(document) else Missing("A test sample inside the networks", why_missing(document, "traces"))


def packed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The traces as the script takes them, by arm; names are escaped for plotly's texts."""
    return {
        arm: {
            "steps": traces["steps"],
            "classes": traces["classes"],
            "samples": {str(sample["index"]): _sample(sample, traces["steps"]) for sample in traces["samples"]},
        }
        for arm, traces in _traces(document).items()
    }


def _sample(sample: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {
        **{key: sample[key] for key in ("label", "answer_float", "answer_chip", "readout")},
        "layers": [
            {
                "name": layer["name"],
                "title": escaped(shortened(layer["name"], 40)),
                "neurons": layer["neurons"],
                "shown": layer["shown"],
                "bits": _bits(layer, steps),
                "spikes": layer["spikes_total"],
                "membrane": layer["membrane"],
            }
            for layer in sample["layers"]
        ],
    }


def _bits(layer: Mapping[str, Any], steps: int) -> str:
    """The raster (neurons shown, steps), row by row, most significant bit first, in base 64."""
    raster = np.zeros((len(layer["shown"]), steps), np.uint8)
    for place, step in layer["spikes"]:
        raster[place, step] = 1
    return b64encode(np.packbits(raster).tobytes()).decode()


def choices(document: Mapping[str, Any]) -> dict[str, Any]:
    """What can be chosen: networks, samples with their pictures, layers."""
    traces = _traces(document)
    samples = {sample["index"]: sample for of_arm in traces.values() for sample in of_arm["samples"]}
    return {
        "arms": list(traces),
        "samples": [
            {"index": index, "title": _title(traces, index, sample["label"]), "picture": picture(sample["image"])}
            for index, sample in sorted(samples.items())
        ],
        "layers": ordered(
            *(
                [layer["name"] for layer in sample["layers"]]
                for of_arm in traces.values()
                for sample in of_arm["samples"]
            )
        ),
    }


def _title(traces: Mapping[str, Any], index: int, label: int) -> str:
    """The class of a sample, and what a chip takes it for if that is another."""
    says = {
        arm: sample["answer_chip"] for arm in traces for sample in traces[arm]["samples"] if sample["index"] == index
    }
    return "; ".join([f"{label}", *(f"{arm} says {answer}" for arm, answer in says.items() if answer != label)])


def picture(image: Mapping[str, Any]) -> str:
    """The input as the address of a PNG: grey, red-green-blue, or two channels of events as blue and orange."""
    channels, height, width = image["shape"]
    values = np.asarray(image["values"], np.float64).reshape(channels, height, width)
    values = values / max(float(np.abs(values).max(initial=0)), 1e-12)
    if channels == 2:  # where the pixel has become brighter, and darker: the more events, the more ink
        blue, orange = np.array([0, 114, 178]), np.array([213, 94, 0])
        inks = values[0][..., None] * (255 - blue) + values[1][..., None] * (255 - orange)
        pixels = 255 - inks
    elif channels == 3:
        pixels = 255 * values.transpose(1, 2, 0)
    else:
        pixels = np.repeat(255 * values.mean(0)[..., None], 3, 2)
    drawn = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    larger = max(1, THUMBNAIL // max(height, width))
    buffer = BytesIO()
    drawn.resize((width * larger, height * larger), Image.Resampling.NEAREST).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def numbers(document: Mapping[str, Any]) -> Numbers:
    """Spikes of every layer in every sample, and the answers."""
    listed = [(arm, sample) for arm, traces in _traces(document).items() for sample in traces["samples"]]
    spikes = [{layer["name"]: f"{layer['spikes_total']:,}" for layer in sample["layers"]} for _, sample in listed]
    layers = ordered(*spikes)
    answers = ("label", "answer_float", "answer_chip")
    return Numbers(
        ("sample", "label", "float says", "chip says", *(f"{layer}, spikes" for layer in layers)),
        [
            (
                f"{sample['index']}, {arm}",
                *(str(sample[key]) for key in answers),
                *(fired.get(layer, "-") for layer in layers),
            )
            for (arm, sample), fired in zip(listed, spikes, strict=True)
        ],
    )


def forms() -> dict[str, dict[str, Any]]:
    """Figures without data: the raster above the membrane trace, and the read-out."""
    return {"inside": _inside(), "readout": _readout()}


def _inside() -> dict[str, Any]:
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.56, 0.44], vertical_spacing=0.07)
    figure.add_heatmap(
        row=1,
        col=1,
        zmin=0,
        zmax=1,
        colorscale=[[0, "var(--surface)"], [1, "var(--on-chip)"]],
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="neuron %{customdata}, step %{x}: %{text}<extra></extra>",
    )
    curves = (
        ("chip", "var(--on-chip)", "solid", 3, "circle", 7),
        ("float", "var(--in-floats)", "dot", 2, "diamond-open", 11),
    )
    for name, colour, dash, width, symbol, size in curves:
        figure.add_scatter(
            row=2,
            col=1,
            name=name,
            mode="lines+markers",
            line=dict(color=colour, dash=dash, width=width),
            marker=dict(symbol=symbol, size=size, maxdisplayed=POINTS),
            hovertemplate=f"step %{{x}}, {name}: %{{y:.4g}}<extra></extra>",
        )
    figure.add_scatter(
        row=2,
        col=1,
        name="chip's threshold",
        mode="lines",
        line=dict(color="var(--ink-soft)", dash="dash", width=2),
        hovertemplate="chip's threshold %{y:.4g}<extra></extra>",
    )
    for name, colour, symbol in (
        ("chip fires", "var(--on-chip)", "triangle-down"),
        ("float fires", "var(--in-floats)", "triangle-down-open"),
    ):
        figure.add_scatter(
            row=2,
            col=1,
            name=name,
            mode="markers",
            marker=dict(symbol=symbol, color=colour, size=13, line=dict(width=2)),
            hovertemplate=f"{name} at step %{{x}}<extra></extra>",
        )
    figure.update_layout(height=640, template=None)
    figure.update_layout(legend=dict(y=-0.13, yanchor="top"))
    figure.update_yaxes(title="neuron", row=1, col=1, showgrid=False)
    figure.update_yaxes(title="potential v", row=2, col=1)
    figure.update_xaxes(title="time step", row=2, col=1)
    return plain(figure)


def _readout() -> dict[str, Any]:
    figure = go.Figure()
    for name, pattern, colour in (("chip", "", "var(--on-chip)"), ("float", "/", "var(--in-floats)")):
        figure.add_bar(
            name=name,
            marker=dict(
                color=colour, pattern=dict(shape=pattern, fgcolor="var(--surface)", solidity=0.2, fillmode="overlay")
            ),
            hovertemplate=f"class %{{x}}, {name}: %{{y:.4g}}<extra></extra>",
        )
    figure.update_layout(height=340, barmode="group")
    figure.update_xaxes(title="class", type="category")
    figure.update_yaxes(title="read-out", zeroline=True, zerolinecolor="var(--ink-soft)")
    return plain(figure)


def _traces(document: Mapping[str, Any]) -> dict[str, Any]:
    found = {arm: document["arms"][arm]["traces"] for arm in ARMS}
    return {arm: traces for arm, traces in found.items() if traces and traces["samples"]}
