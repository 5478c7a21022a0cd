"""`sca-deploy evaluate`: the figures of one or many networks, if need be on many machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sca_deploy.options import PATH, Options, common

if TYPE_CHECKING:
    from sca_deploy.wide import Evaluation

COLUMNS = {
    "accuracy_float": "accuracy, float",
    "accuracy_chip": "accuracy, chip",
    "spikes_per_sample": "spikes a sample",
    "synops_per_sample": "operations a sample",
    "cores": "neurocores",
    "step_time_ns": "time of a step",
    "energy_nj_per_sample": "dynamic energy a sample",
}
"""The figures that are shown, and how; --json has all."""


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=PATH)
@click.option("--workers", type=click.IntRange(1), help="Ray workers on this machine; of a cluster, CPUs at most.")
@click.option("--address", help="Join the Ray cluster whose head listens at HOST:PORT, or `auto`.")
@common
def evaluate(options: Options, sources: tuple[Path, ...], workers: int | None, address: str | None) -> None:
    """What networks do on their test sets, and what they cost on their chips.

    SOURCE is a run, one of its arms, or a file in it; there may be many. Without --workers and --address everything
    runs in this process. The figures do not depend on it.
    """
    from sca_deploy import wide
    from sca_deploy.console import columns

    networks = [wide.subject(source) for source in sources]
    console = options.console()
    if workers is None and address is None:
        found = wide.evaluate_all(networks, console)
    else:
        from sca_deploy.cluster import LOCAL, connected

        with connected(address or LOCAL, workers, options.verbose) as cluster:
            console.detail(f"{cluster.address}: {cluster.cpus} CPUs of {cluster.nodes} nodes")
            found = wide.evaluate_all(networks, console, cluster)
    failures = [evaluation.failure for evaluation in found if evaluation.failure is not None]
    options.result(_document(found), _text(found, columns()))
    if failures:
        raise failures[0]


def _document(found: Sequence[Evaluation]) -> dict[str, Any]:
    return {
        "networks": [
            {"source": one.subject.source, "title": one.subject.artifact.title, **one.document}
            for one in found
            if one.document is not None
        ],
        "failures": [
            {"source": one.subject.source, "problem": one.failure.problem, "fix": one.failure.fix}
            for one in found
            if one.failure is not None
        ],
    }


def _text(found: Sequence[Evaluation], width: int | None) -> str:
    """A row for every network, below the names of the figures and where they come from."""
    from sca_deploy.evaluate import LABELS
    from sca_deploy.report.figures import cell
    from sca_deploy.report.tables import table

    rows = [("", *(LABELS[key] for key in COLUMNS), "measured")]
    warnings = []
    for one in found:
        if one.document is None:
            continue
        figures, source = one.document["figures"], one.subject.source
        bound = ">= " if one.document["map"]["lower_bound"] else ""
        shown = [f"{bound if key == 'cores' else ''}{cell(key, figures[key])}" for key in COLUMNS]
        rows.append((source, *shown, f"{figures['test_samples']:,}"))
        warnings += [f"warning: {source}: {line}" for line in one.document["warnings"]]
    failures = [f"{one.subject.source}: {one.failure.problem}" for one in found if one.failure is not None]
    tables = [table(("network", *COLUMNS.values(), "test samples"), rows, "", width)] if len(rows) > 1 else []
    return "\n".join((*tables, *warnings, *failures))
