"""The digits recipe over several seeds: what pruning costs in accuracy, and what the integers cost.

    python benchmarks/digits_seeds.py [--seeds 0 1 2] [-o runs/seeds] [--json]

Every seed is a whole `sca-deploy run digits`, verified against Lava, so repeating the command continues an
interrupted one. Accuracies are on the 360 test digits; the data split is the same for every seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from sca_deploy.artifact import ARMS
from sca_deploy.config import load_config, override
from sca_deploy.console import Console
from sca_deploy.errors import ScaDeployError
from sca_deploy.pipeline import Job, run
from sca_deploy.report.tables import table

KINDS = ("float", "chip")


def measure(seeds: list[int], folder: Path, quiet: bool) -> dict[str, Any]:
    """{"seeds": {seed: comparison}, "mean": {arm: {"float", "chip"}}}, accuracies in percent."""
    runs = {}
    for seed in seeds:
        config = override(load_config("digits"), {"seed": seed})
        runs[seed], failure = run(Job(config, folder / f"seed{seed}", Console(quiet)))
        if failure is not None:
            raise failure

    def mean(arm: str, kind: str) -> float:
        return statistics.mean(100 * document[arm][f"accuracy_{kind}"] for document in runs.values())

    return {"seeds": runs, "mean": {arm: {kind: mean(arm, kind) for kind in KINDS} for arm in ARMS}}


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = []
    for seed, document in result["seeds"].items():
        cells = [f"{100 * document[arm][f'accuracy_{kind}']:.2f}" for arm in ARMS for kind in KINDS]
        rows.append((str(seed), *cells, f"{document['ratio']['channels']:.1%}"))
    rows.append(("mean", *(f"{result['mean'][arm][kind]:.2f}" for arm in ARMS for kind in KINDS), ""))
    head = ("seed", "dense, float", "dense, chip", "pruned, float", "pruned, chip", "channels kept")
    return table(head, rows, "test accuracy in % (float measured, chip simulated)")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    try:
        result = measure(options.seeds, options.output, options.json)
    except ScaDeployError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2) if options.json else text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
