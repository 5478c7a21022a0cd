"""The last word on a budget: a trained network, lowered as it will be exported, and measured.

While a network is trained its integers are taken at their largest scales; what is exported has searched ones, and
weights and spikes of its own. So the trained network is compacted, its scales are searched, and it is measured on
training samples. Where it takes more than the budget, channels go, those of the lowest score first by what they cost,
until it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sca_deploy.budget import ACTIVE
from sca_deploy.calibrate import calibrate
from sca_deploy.config import Config
from sca_deploy.data import Dataset
from sca_deploy.errors import DoesNotFit
from sca_deploy.graph import populations_of
from sca_deploy.hardware.costs import Cost
from sca_deploy.hardware.lower import assemble
from sca_deploy.oracle import FINAL_SAMPLES, Oracle, measured
from sca_deploy.pruning.allocation import Edge
from sca_deploy.pruning.budgeted import Budgeted, Ranking
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.group import Network
from sca_deploy.pruning.groups import channel_groups


@dataclass(frozen=True)
class Fit:
    """A network held against its budget; its masks were set in place.

    Args:
        report: plain data: "chip", "samples" (0 where nothing depends on them), "fits", "resources": one entry each
            with "name", "limit", "value", "upper", "layer", "why", "label"; "trimmed": channels that had to go, by
            group; "edges": of every group "name", "channels", and where the cores change "fewer" and "more", each
            with "channels" and "cores" (of the whole network), None where they never do.
        failure: why it does not fit; None if it does.
    """

    report: dict[str, Any]
    failure: DoesNotFit | None


def fit(
    network: Network,
    scores: Sequence[torch.Tensor],
    config: Config,
    dataset: Dataset,
) -> Fit:
    """Hold a trained network to the budget of its config, taking channels away where it must.

    Args:
        network: trained, with masks.
        scores: per group (C,), the last that its method gave.
        config: with a budget.
        dataset: whose training samples it is measured on.

    Raises:
        ScaDeployError: if the chip cannot carry the network.
    """
    groups, oracle = channel_groups(network), Oracle.of(config, dataset, FINAL_SAMPLES)
    budgeted, ranking = Budgeted(network, groups, config.prune), Ranking(scores, returns=False)
    before = budgeted.widths

    def measure() -> dict[str, Cost]:
        return _as_exported(network, config, dataset, oracle)

    costs = measure()
    if not budgeted.keeps(costs):
        budgeted.settle(ranking, oracle, measure)
        costs = measure()
    gone = {name: old - new for name, old, new in zip(budgeted.names, before, budgeted.widths, strict=True)}
    report = {
        "chip": oracle.chip.name,
        "samples": len(oracle.x) if config.prune.budget.keys() & set(ACTIVE) else 0,
        "fits": budgeted.keeps(costs),
        "resources": [
            {"name": name, "limit": limit, **asdict(costs[name])} for name, limit in config.prune.budget.items()
        ],
        "trimmed": {name: number for name, number in gone.items() if number},
        "edges": [
            {"name": name, "channels": width, "fewer": _plain(fewer), "more": _plain(more)}
            for name, width, fewer, more in budgeted.edges(Ranking(scores), oracle)
        ],
    }
    return Fit(report, None if report["fits"] else budgeted.refuse(costs))


def _plain(edge: Edge | None) -> dict[str, int] | None:
    return None if edge is None else {"channels": edge.width, "cores": edge.cores}


def _as_exported(network: Network, config: Config, dataset: Dataset, oracle: Oracle) -> dict[str, Cost]:
    """What the network takes, its masked channels cut out and its scales searched, but not fine-tuned in integers."""
    small = compact(network)
    calibrated = calibrate(small, replace(config, lower=replace(config.lower, finetune=0)), dataset)
    shape, populations = populations_of(calibrated.network)
    program = assemble(shape, populations, oracle.rules, calibrated.scales)
    return measured(program, oracle.chip, oracle.x, config.prune.budget)
