"""A picture of the steps in which a narrower network frees cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from sca_deploy.files import atomic_path
from sca_deploy.report.plots import BLUE, ORANGE


def plot_what_if(path: Path, document: dict[str, Any]) -> None:
    """Cores against the fraction of channels kept, as steps, from `WhatIf.as_dict`; written to `path` as a PNG."""
    steps, asked = document["steps"], document["asked"]
    # A step holds from its fraction down to the next one's, the last down to the smallest that was asked for.
    edges = [step["keep"] for step in steps] + [min((kept["keep"] for kept in asked), default=0.0)]
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    curves = (
        ("compiler_like", ORANGE, "-", "as the compiler would split (inferred)"),
        ("cores", BLUE, "--", "cores, at least"),
    )
    for key, colour, style, label in curves:
        heights = [step[key] for step in steps]
        # Dashed above the other where both are the same.
        axes.stairs(heights[::-1], edges[::-1], baseline=None, color=colour, linewidth=2, linestyle=style, label=label)
    axes.plot([kept["keep"] for kept in asked], [kept["cores"] for kept in asked], "o", color=BLUE)
    axes.set(xlabel="fraction of channels kept", ylabel="cores", title=f"Cores of {document['chip']} (estimated)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    plt.close(figure)
