"""What the scale search is worth: accuracy of a run's networks in floats, and on the simulated chip with and without.

    python benchmarks/scale_search.py [RUN] [--within 0.3] [--json]

RUN is a folder that `sca-deploy run` wrote, runs/digits by default. Both arms are lowered twice, at the largest
scales that fit and at those the search finds on training samples (as many as the run's config says), and classify
the whole test set.
The differences between float and chip in single spikes and predictions are shown beside the accuracies, whose
own uncertainty on 10,000 images is about 0.3 points.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sca_deploy.checkpoint import load_network
from sca_deploy.config import Config
from sca_deploy.data import configured
from sca_deploy.errors import ScaDeployError
from sca_deploy.files import read_json
from sca_deploy.graph import DT, to_nir
from sca_deploy.hardware.frontend import read_populations
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.scales import search_scales
from sca_deploy.hardware.simulate import simulate
from sca_deploy.inputs import inputs_of

BATCH = 500


def measure(folder: Path, arm: str) -> dict[str, Any]:
    """Accuracies (percent) of one arm, and how often chip and float network agree."""
    config = Config.from_plain(read_json(folder / "config.json"))
    dataset = configured(config.data, config.network.steps)
    inputs = inputs_of(config, dataset)
    network, _ = load_network(folder / arm / "network.pt")
    x, y = inputs.fixed(dataset.test_x), dataset.test_y
    with torch.inference_mode():
        batches = [network(torch.tensor(x[start : start + BATCH])) for start in range(0, len(x), BATCH)]
    floats = torch.cat(batches).argmax(1).numpy()
    result: dict[str, Any] = {"arm": arm, "test_samples": len(y), "float": 100 * float((floats == y).mean())}
    shape, populations = read_populations(to_nir(network), DT)
    rules = Rules(config.network.steps, inputs.bits)
    choices = search_scales(shape, populations, rules, inputs.over_time(dataset.train_x[: config.lower.samples]))
    for name, scales in (("largest", None), ("searched", {choice.name: choice.chosen for choice in choices})):
        readout = simulate(assemble(shape, populations, rules, scales), inputs.over_time(dataset.test_x)).readout
        answers = np.zeros(0) if readout is None else readout.argmax(1)
        result[name] = 100 * float((answers == y).mean())
        result[f"{name}_agree"] = 100 * float((answers == floats).mean())
    result["layers"] = [vars(choice) for choice in choices]
    return result


def table(results: list[dict[str, Any]]) -> str:
    """The results for people."""
    lines = [f"{'':8}{'float':>8}{'largest scales':>18}{'searched scales':>18}   (accuracy in %, same answer as float)"]
    for r in results:
        both = "".join(f"{r[name]:>9.2f} ({r[f'{name}_agree']:5.2f})" for name in ("largest", "searched"))
        lines.append(f"{r['arm']:8}{r['float']:>8.2f}  {both}   {r['test_samples']:,} test samples, simulated")
        for c in r["layers"]:
            share = c["chosen"] / c["largest"]
            lines.append(
                f"    {c['name']:16} {share:5.2f} of the largest: {c['before']:.4f} -> {c['after']:.4f} differ"
            )
    return "\n".join(lines)


def main() -> int:
    """Measure both arms and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/digits"))
    parser.add_argument("--within", type=float, default=100.0, help="exit with 1 if the searched loses more points")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    try:
        results = [measure(options.run, arm) for arm in ("dense", "pruned")]
    except ScaDeployError as error:
        print(f"{error.problem}\n{error.fix}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(results, indent=2) if options.json else table(results))
    return 0 if all(abs(r["float"] - r["searched"]) <= options.within for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
