"""The budgets of one core: how much of each is used, whether all hold, which is the fullest."""

from __future__ import annotations

from dataclasses import dataclass

from sca_deploy.hardware.chip import Chip


@dataclass(frozen=True)
class Use:
    """How much of one budget of a core is used."""

    used: int
    limit: int

    @property
    def fraction(self) -> float:
        """used / limit; above 1 where it does not fit."""
        return self.used / self.limit


Core = dict[str, Use]
"""Use of every budget of a core, keyed as the chip's budgets."""


def core_of(chip: Chip, *, neurons: int, axon_in: int, synapse_words: int, axon_map: int) -> Core:
    """The use of every budget.

    The total is the sum of axons, neurons, synapse words and axon map entries, as in the published tables; these
    also count AxonMem, for which no rule is known (at most 731 of 20,000 in a published row): it is left out.
    """
    used = {
        "neurons": neurons,
        "neuron_groups": 1,  # the neurons of a layer differ in nothing but their bias
        "axon_in": axon_in,
        "synapse_words": synapse_words,
        "axon_map": axon_map,
        "total": axon_in + neurons + synapse_words + axon_map,
    }
    return {resource: Use(amount, chip.budgets[resource].value) for resource, amount in used.items()}


def fits(core: Core) -> bool:
    """Whether the core keeps every budget."""
    return all(use.used <= use.limit for use in core.values())


def fullest(core: Core) -> str:
    """The budget of the largest fraction; neuron groups apart, of which a core always has one."""
    return max(core, key=lambda resource: 0 if resource == "neuron_groups" else core[resource].fraction)


def overflow(core: Core) -> int:
    """Into how many parts the worst budget would have to be divided to hold; 1 where it does."""
    return max(-(-use.used // use.limit) for use in core.values())
