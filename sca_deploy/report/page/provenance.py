"""Where the networks come from: versions, seed, hashes and the config; and the integers of their layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sca_deploy.report.figures import percent
from sca_deploy.report.page.chart import Missing, Numbers, Table, present, why_missing


@dataclass(frozen=True)
class Manifest:
    """One arm's manifest as rows of (what, value)."""

    arm: str
    facts: list[tuple[str, str]]


def manifests(document: Mapping[str, Any]) -> list[Manifest] | Missing:
    """What each network was made from, and with."""
    found = present(document, "manifest")
    if not found:
        return Missing("Manifest", why_missing(document, "manifest"))
    return [_manifest(arm, manifest) for arm, manifest in found.items()]


def _manifest(arm: str, manifest: Mapping[str, Any]) -> Manifest:
    facts = [(name, str(version)) for name, version in manifest.get("versions", {}).items()]
    if "seed" in manifest:
        facts.append(("seed", str(manifest["seed"])))
    if chip := manifest.get("chip"):
        facts.append((f"chip file {chip['name']}, SHA-256", chip["sha256"]))
    facts += [(f"{name}, SHA-256", digest) for name, digest in manifest.get("sources", {}).items()]
    if "config_sha256" in manifest:
        facts.append(("config, SHA-256", manifest["config_sha256"]))
    return Manifest(arm, facts)


def configs(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The configs of the networks as (whose, text), once where they are the same."""
    found = {
        arm: _written(config)
        for arm, manifest in present(document, "manifest").items()
        if (config := manifest.get("config"))
    }
    if len(found) > 1 and len(set(found.values())) == 1:
        return [("both networks", next(iter(found.values())))]
    return [(f"the {arm} network", text) for arm, text in found.items()]


def _written(config: Mapping[str, Any]) -> str:
    """A config section by section, a value a line, a list of tables an entry a line."""
    single = {key: value for key, value in config.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in single.items()]
    for section, values in config.items():
        if not isinstance(values, dict):
            continue
        lines += ["", f"[{section}]"]
        for key, value in values.items():
            if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
                lines += [f"{key} = [", *(f"  {json.dumps(entry)}," for entry in value), "]"]
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines)


def integers(document: Mapping[str, Any]) -> Table | Missing:
    """The layers as the chip runs them."""
    title = "Layers in integers"
    found = present(document, "layers")
    remarks = tuple(why_missing(document, "layers"))
    if not found:
        return Missing(title, remarks)
    rows = [
        (
            layer["name"],
            arm,
            layer["synapse"],
            "x".join(f"{side:,}" for side in layer["shape"]),
            f"{layer['weights']:,}",
            percent(layer["zero_weights"]),
            f"{layer['weight_max']:,}",
            f"{layer['bias_max']:,}",
            "read-out" if layer["readout"] else f"{layer['threshold']:,}",
            f"{layer['beta']:.4g}",
            f"{layer['alpha']:.4g}",
        )
        for arm, layers in found.items()
        for layer in layers
    ]
    head = (
        "layer",
        "network",
        "synapse",
        "neurons",
        "weights",
        "zero",
        "max |w|",
        "max |bias|",
        "threshold",
        "beta",
        "alpha",
    )
    return Table(
        title=title,
        labels=("measured",),
        note="What is written to the chip: weights of 8 bits, their zeros, the largest bias, threshold and decays.",
        numbers=Numbers(head, rows, 3),
        remarks=remarks,
    )
