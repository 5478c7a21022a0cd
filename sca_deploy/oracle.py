"""What a network that is still being pruned would be on its chip: its integers, and what they cost.

Budgets are kept by asking here, so the mapper and the simulator have the last word, not a formula.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sca_deploy.budget import ACTIVE
from sca_deploy.config import Config
from sca_deploy.data import Dataset
from sca_deploy.errors import DoesNotFit, ScaDeployError, UsageError
from sca_deploy.graph import populations_of
from sca_deploy.hardware.chip import Chip, load_chip
from sca_deploy.hardware.costs import Cost, costs
from sca_deploy.hardware.lower import Rules, assemble
from sca_deploy.hardware.program import Program
from sca_deploy.inputs import inputs_of
from sca_deploy.pruning.compact import compact
from sca_deploy.pruning.group import Network

SAMPLES = 256
"""Training samples on which activity is measured while a network is trained."""
FINAL_SAMPLES = 512
"""Training samples on which the network that is exported is measured."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """A chip, and real input to measure activity on.

    Args:
        chip: the config's.
        rules: what the integers of any network of the config depend on.
        x: training samples over time, (samples, steps, *input_shape).
    """

    chip: Chip
    rules: Rules
    x: npt.NDArray[np.generic]

    @classmethod
    def of(cls, config: Config, dataset: Dataset, samples: int = SAMPLES) -> Oracle:
        """The oracle of a config.

        Raises:
            UsageError: if there is no such chip.
        """
        inputs = inputs_of(config, dataset)
        rules = Rules(config.network.steps, inputs.bits)
        spread = np.linspace(0, len(dataset.train_x) - 1, min(samples, len(dataset.train_x))).astype(np.int64)
        return cls(load_chip(config.chip), rules, inputs.over_time(dataset.train_x[spread]))

    def program(self, network: Network) -> Program:
        """The integers of a network at the largest scales, masked channels still there, but silent.

        Raises:
            UsageError: if the chip cannot carry it.
        """
        return self._assembled(_at_rest(network))

    def costs(self, network: Network, resources: Iterable[str]) -> dict[str, Cost]:
        """What a network takes of some resources once its masked channels are cut out.

        Raises:
            UsageError: if the chip cannot carry it.
            ScaDeployError: if a layer has no channel left.
        """
        return measured(self._assembled(compact(_at_rest(network))), self.chip, self.x, resources)

    def refuse_hopeless(self, network: Network, budget: Mapping[str, float]) -> None:
        """Refuse what no training could bring inside a budget.

        Raises:
            UsageError: if the chip cannot carry the network.
            DoesNotFit: if there are fewer cores than layers, none of which shares one.
        """
        layers = [layer.name for layer in self.program(network).layers]
        if budget.get("cores", len(layers)) < len(layers):
            raise DoesNotFit(
                f"the budget cores={budget['cores']:g} cannot be kept: the network has {len(layers)} layers "
                f"({', '.join(layers)}), each takes a core at least",
                f"allow cores={len(layers)}, or take a network of fewer layers",
            )

    def _assembled(self, network: Network) -> Program:
        try:
            shape, populations = populations_of(network)
            return assemble(shape, populations, self.rules)
        except ScaDeployError as error:
            problem = f"a budget needs a network that the chip can carry: {error.problem}"
            raise UsageError(problem, error.fix or "leave --budget out") from error


def measured(program: Program, chip: Chip, x: npt.NDArray[np.generic], resources: Iterable[str]) -> dict[str, Cost]:
    """The costs of a Program, its cores always; samples are shown only where a resource depends on them."""
    wanted = dict.fromkeys(("cores", *resources))
    found = costs(program, chip, x if wanted.keys() & set(ACTIVE) else None)
    return {name: found[name] for name in wanted}


def _at_rest(network: Network) -> Network:
    """A copy that is not trained, on the CPU."""
    return copy.deepcopy(network).cpu().eval()
