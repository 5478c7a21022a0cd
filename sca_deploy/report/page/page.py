"""The page: every part of the document, put into the template."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from sca_deploy import __version__
from sca_deploy.files import write_text
from sca_deploy.report.page import (
    accuracy,
    agreement,
    budget,
    channels,
    costs,
    energy,
    floor,
    provenance,
    samples,
    verdict,
)
from sca_deploy.report.page.chart import Chart, Missing, shared_template, why_missing

_FOLDER = files("sca_deploy.report.page")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""What could end a script element, and how JSON writes it otherwise; all but ASCII is escaped by json itself."""


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Write the report as one HTML file.

    Args:
        document: what `report.gathering.gather` returns.
        path: of the file, which is replaced as a whole.

    Raises:
        ScaDeployError: if the file cannot be written.
    """
    write_text(path, render(document))


def render(document: Mapping[str, Any]) -> str:
    """The report as the text of an HTML file that needs no other file and no network."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = _with_code
    environment.filters["held"] = _held
    environment.tests["missing"] = lambda part: isinstance(part, Missing)
    template = environment.from_string(_text("template.html.j2"))
    library, script = get_plotlyjs(), _text("script.js")
    return template.render(
        title=document["title"],
        version=__version__,
        style=Markup(_text("style.css")),
        library=Markup(library),
        script=Markup(script),
        hashes=[_hash(text) for text in (library, script)],
        **_parts(document),
    )


def _parts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template names."""
    comparison = document["comparison"]
    charts: dict[str, Chart | Missing] = {
        "kept": channels.kept_by_layer(document),
        "kept_epochs": channels.kept_over_epochs(document),
        "accuracy_epochs": accuracy.over_epochs(document),
        "accuracy_steps": accuracy.over_steps(document),
        "rates": costs.firing_rates(document),
        "synops": costs.synops(document),
        "energy": energy.by_term(document),
        "static": energy.dynamic_and_static(document),
        "time": energy.step_time(document),
        "differ": agreement.differing_spikes(document),
    }
    floors = floor.floors(document)
    no_samples = samples.missing(document)
    return {
        "lowered": "cores" in comparison["dense"],
        "on_chip": floor.chip_shown(document),
        "sentence": verdict.sentence(comparison),
        "cards": verdict.cards(comparison),
        "rows": verdict.rows(comparison),
        "test_samples": comparison["dense"]["test_samples"],
        "warnings": budget.broken(document)
        + [f"{arm}: {line}" for arm, lines in comparison["warnings"].items() for line in lines],
        "verified": budget.kept(document) + agreement.verified(document),
        "budgets": budget.budgets(document),
        "edges": budget.edges(document),
        "charts": charts,
        "floors": floors,
        "legend": floor.legend(document),
        "no_samples": no_samples,
        "no_traces": why_missing(document, "traces"),
        "no_manifest": why_missing(document, "manifest"),
        "choices": None if no_samples else samples.choices(document),
        "sample_numbers": samples.numbers(document),
        "calibration": agreement.calibration(document),
        "verification": agreement.verification(document),
        "integers": provenance.integers(document),
        "manifests": provenance.manifests(document),
        "configs": provenance.configs(document),
        "data": _script_data(_figures(charts, floors), document),
    }


def _figures(
    charts: Mapping[str, Chart | Missing], floors: Mapping[str, list[Chart] | Missing]
) -> dict[str, dict[str, Any]]:
    drawn = [chart for chart in charts.values() if isinstance(chart, Chart)]
    drawn += [chart for found in floors.values() if isinstance(found, list) for chart in found]
    return {chart.key: {"title": chart.title, **chart.figure} for chart in drawn}


def _script_data(figures: Mapping[str, Any], document: Mapping[str, Any]) -> Markup:
    """What the script reads, as JSON that cannot leave its element."""
    data = {
        "title": document["title"],
        "template": shared_template(),
        "charts": figures,
        "forms": samples.forms(),
        "traces": samples.packed(document),
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character, replacement in _UNSAFE.items():
        text = text.replace(character, replacement)
    return Markup(text)


def _with_code(text: str) -> Markup:
    """A line with what stands between backquotes as code."""
    text = _held(text)
    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backquote without its pair is one of the text's own
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def _held(text: str) -> str:
    """A text whose signs of percent stay on the line of their numbers."""
    return text.replace(" %", "\u00a0%")


def _text(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What a Content-Security-Policy names a script by: only these two may run."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
